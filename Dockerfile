# CPU image:
#   docker build -t fathom:0.1.0 .
#   docker run -p 8080:8080 fathom:0.1.0                                           the demo model
#   docker run -p 8080:8080 fathom:0.1.0 serve hops                                another model of the image
#   docker run -p 8080:8080 -v /path/to/model:/model:ro fathom:0.1.0 serve /model  a model of your own
# Options are also variables: -e FATHOM_MAX_RUNNING=32
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc make pkg-config libc6-dev libmicrohttpd-dev libuv1-dev libjansson-dev libpcre2-dev libutf8proc-dev libcurl4-openssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ARG COMMIT=
RUN make CUDA=0 COMMIT="$COMMIT" all \
    && make CUDA=0 COMMIT="$COMMIT" install-strip DESTDIR=/out prefix=/usr DOC_FILES=LICENSE

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
        libmicrohttpd12 libuv1 libjansson4 libpcre2-8-0 libutf8proc2 libzmq5 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home fathom
COPY --from=build /out/usr/bin/fathom /usr/bin/fathom
COPY --from=build /out/usr/share/fathom /usr/share/fathom
COPY --from=build /out/usr/share/doc/fathom/LICENSE /usr/share/doc/fathom/LICENSE
ARG VERSION=0.1.0
ARG COMMIT=
LABEL org.opencontainers.image.title="Fathom" \
      org.opencontainers.image.description="Inference server for recurrent-depth transformers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$COMMIT"
# In a container 127.0.0.1 would be the container's own.
ENV FATHOM_HOST=0.0.0.0
USER fathom
EXPOSE 8080
STOPSIGNAL SIGTERM
# /health answers while the model loads, too.
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s CMD ["/usr/bin/fathom", "health"]
ENTRYPOINT ["/usr/bin/fathom"]
CMD ["serve"]
