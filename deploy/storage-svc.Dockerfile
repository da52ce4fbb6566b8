# Built with the repository as context: docker build -f deploy/storage-svc.Dockerfile .
FROM golang:1.26 AS build
ENV CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=local
WORKDIR /src
COPY contract contract
COPY outbox outbox
COPY service service
COPY devstack/testenv/go.mod devstack/testenv/go.mod
COPY storage-svc storage-svc
WORKDIR /src/storage-svc
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -trimpath -ldflags=-s -o /out/storage-svc .
# A named volume takes owner and mode from the folder in the image.
RUN mkdir -p /out/provider

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build --chown=65532:65532 /out/provider /var/lib/provider
COPY --from=build /out/storage-svc /storage-svc
USER 65532:65532
EXPOSE 8090
ENTRYPOINT ["/storage-svc"]
CMD ["serve"]
