# Hookpost, as an unprivileged user on a slim Debian: `docker build -t hookpost .`

FROM rust:1.95-bookworm AS dependencies
# By this, what a build without BuildKit leaves behind can be told from the rest: docker image prune --filter label=...
LABEL hookpost.stage=build
# One of cargo's. The tests build with `dev`, which takes a quarter of the time.
ARG CARGO_PROFILE=release
# Backtraces keep the names of functions. With line numbers the program would be four times as large.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=0
WORKDIR /src
# Against empty sources: this layer is built again only when a manifest or the lock file changes. What was made of them
# has to go, for cargo compares times, and the sources may be older.
COPY Cargo.toml Cargo.lock ./
COPY bench/Cargo.toml bench/
RUN mkdir -p src/bin bench/src \
 && echo 'fn main() {}' | tee src/main.rs src/bin/hookpost-negative-controls.rs > bench/src/main.rs \
 && touch src/lib.rs \
 && cargo build --profile "$CARGO_PROFILE" --locked --bin hookpost \
 && rm -rf src bench/src target/*/.fingerprint/hookpost-*

FROM dependencies AS build
ARG CARGO_PROFILE=release
COPY . .
RUN cargo build --profile "$CARGO_PROFILE" --locked --bin hookpost \
 && cp target/*/hookpost /usr/local/bin/

# The same release of Debian: the program is linked to its C library.
FROM debian:bookworm-slim
# Receivers' certificates are checked against these.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /usr/local/bin/hookpost /usr/local/bin/
COPY LICENSE /usr/share/doc/hookpost/
RUN install --directory --owner 10001 --group 10001 --mode 700 /var/lib/hookpost
USER 10001:10001
WORKDIR /var/lib/hookpost
# Inside a container, loopback reaches nobody. Callers are asked for API keys, unless who runs it says HOOKPOST_AUTH=off.
ENV HOOKPOST_LISTEN=0.0.0.0:8000 HOOKPOST_DATA_DIR=/var/lib/hookpost HOOKPOST_LOG_FORMAT=json
VOLUME /var/lib/hookpost
EXPOSE 8000
# The first one drains: attempts in flight are finished and logged. Allow HOOKPOST_ATTEMPT_TIMEOUT and 5 s more.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["hookpost", "healthcheck"]
ENTRYPOINT ["hookpost"]
CMD ["serve"]
