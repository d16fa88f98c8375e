# Stands in for the image of Rust: this machine's toolchain, and what of Debian's packages a build needs.
FROM hookpost-stand-in/debian:bookworm-slim
RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
ENV CARGO_HOME=/usr/local/cargo PATH=/opt/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
COPY . /opt/rust
# Those of this machine: whom cargo trusts here, and where it asks.
RUN mkdir -p /etc/ssl/certs /usr/local/cargo \
 && mv /opt/rust/ca-certificates.crt /etc/ssl/certs/ \
 && if [ -e /opt/rust/config.toml ]; then mv /opt/rust/config.toml /usr/local/cargo/; fi
