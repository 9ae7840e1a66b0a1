# CPU image: docker build -t fathom . && docker run -p 8080:8080 fathom
# Another model: docker run -p 8080:8080 -v /path/to/model:/model:ro fathom serve --model /model --host 0.0.0.0
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
        gcc make pkg-config libc6-dev libmicrohttpd-dev libuv1-dev libjansson-dev libpcre2-dev libutf8proc-dev libcurl4-openssl-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make -j"$(nproc)" CUDA=0 all && make CUDA=0 install DESTDIR=/out PREFIX=/usr

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
        libmicrohttpd12 libuv1 libjansson4 libpcre2-8-0 libutf8proc2 libcurl4 curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home fathom
COPY --from=build /out/usr/bin/fathom /usr/bin/fathom
COPY models/demo /usr/share/fathom/demo
USER fathom
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD curl -fs http://127.0.0.1:8080/health || exit 1
ENTRYPOINT ["/usr/bin/fathom"]
CMD ["serve", "--model", "/usr/share/fathom/demo", "--host", "0.0.0.0", "--port", "8080"]
