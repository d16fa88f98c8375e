# Stands in for the image of Redis, with the version that Debian has.
FROM hookpost-stand-in/debian:bookworm-slim
RUN groupadd --system --gid 999 redis \
 && useradd --system --uid 999 --gid redis --home-dir /data redis \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* /usr/share/doc \
 && install --directory --owner redis --group redis /data
VOLUME /data
WORKDIR /data
CMD ["redis-server"]
