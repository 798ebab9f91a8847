# syntax=docker/dockerfile:1

# Lets BuildKit's scanner see Cargo.lock, so that the SBOM it attaches (`--sbom=true`) names every crate and not only
# the packages of the base image.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

# The full image brings a C compiler, pkg-config and OpenSSL's headers; nothing is installed, so nothing drifts.
# rust-toolchain.toml stays outside: this tag is the same version, and its extra tools are not needed here.
FROM rust:1.95.0-bookworm AS build
WORKDIR /walpost
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/walpost/target \
    cargo build --release --locked --bin walpost \
    && cp target/release/walpost /usr/local/bin/walpost

# The same Debian as above. The `cc` image has libgcc, libssl.so.3 and libcrypto.so.3, all that the binary links
# (librdkafka, zlib and zstd are inside it), so OpenSSL is mended with the base image and not with a new build.
FROM gcr.io/distroless/cc-debian12:nonroot

# What the release says of itself: docker build --build-arg VERSION=0.1.0 --build-arg REVISION="$(git rev-parse HEAD)" .
ARG VERSION=dev
ARG REVISION=unknown

LABEL org.opencontainers.image.title="walpost" \
      org.opencontainers.image.description="Posts a Postgres outbox to Kafka straight from the write-ahead log" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="gcr.io/distroless/cc-debian12:nonroot" \
      walpost.sbom="attached: docker buildx imagetools inspect IMAGE --format '{{ json .SBOM }}'"

COPY --from=build /usr/local/bin/walpost /walpost

# The number, because Kubernetes' runAsNonRoot cannot read a name. It is `nonroot` of the base image.
USER 65532:65532

# By default only the machine itself may ask for health and metrics; from inside a container that is nobody.
ENV WALPOST_LISTEN=0.0.0.0:8480
EXPOSE 8480

# No HEALTHCHECK: here is no shell and no HTTP client to ask with, and Docker restarts nothing that is unhealthy. What
# stands still with records in flight is ended by the kernel; Kubernetes asks /healthz and /readyz itself.

# Exec form: SIGTERM reaches walpost itself, which then drains. As the first process of the container it runs the relay
# as its child, so that no `--init` is needed.
ENTRYPOINT ["/walpost"]
CMD ["run"]
