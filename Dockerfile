# syntax=docker/dockerfile:1
# Builds with `docker build -t hookpost .`; runs as an unprivileged user on a slim Debian.

ARG RUST_VERSION=1.95

FROM rust:${RUST_VERSION}-bookworm AS build
WORKDIR /src
# Dependencies first, against empty sources: this layer is rebuilt only when a manifest or the lock file changes.
COPY Cargo.toml Cargo.lock ./
COPY bench/Cargo.toml bench/Cargo.toml
RUN mkdir -p src bench/src \
 && echo 'fn main() {}' | tee src/main.rs > bench/src/main.rs \
 && touch src/lib.rs \
 && cargo build --release --locked \
 && rm -rf src bench/src target/release/.fingerprint/hookpost-*
COPY . .
RUN cargo build --release --locked --bin hookpost

FROM debian:bookworm-slim
# Receivers' certificates are checked against these.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends ca-certificates \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /var/lib/hookpost --create-home --shell /usr/sbin/nologin hookpost
COPY --from=build /src/target/release/hookpost /usr/local/bin/hookpost
COPY LICENSE /usr/share/doc/hookpost/LICENSE
USER 10001
WORKDIR /var/lib/hookpost
# Inside a container, loopback reaches nobody. Callers are asked for API keys, unless who runs it says HOOKPOST_AUTH=off.
ENV HOOKPOST_LISTEN=0.0.0.0:8000 HOOKPOST_DATA_DIR=/var/lib/hookpost HOOKPOST_LOG_FORMAT=json
VOLUME /var/lib/hookpost
EXPOSE 8000
# The first one drains: attempts in flight are finished and logged. Allow HOOKPOST_ATTEMPT_TIMEOUT and 5 s more.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --start-interval=1s --retries=3 \
  CMD ["hookpost", "healthcheck"]
ENTRYPOINT ["hookpost"]
CMD ["serve"]
