# Stands in for the image of PostgreSQL, with the version that Debian has.
FROM hookpost-stand-in/debian:bookworm-slim
RUN groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid postgres --home-dir /var/lib/postgresql postgres \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postgresql \
 && rm -rf /var/lib/apt/lists/* /var/lib/postgresql /usr/share/doc \
 && install --directory --owner postgres --group postgres --mode 1777 /var/lib/postgresql/data \
 && ln -s /usr/lib/postgresql/* /usr/lib/postgresql/current
ENV PATH=/usr/lib/postgresql/current/bin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PGDATA=/var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
COPY postgres-entrypoint.sh /usr/local/bin/
STOPSIGNAL SIGINT
ENTRYPOINT ["postgres-entrypoint.sh"]
CMD ["postgres"]
