# Built with the repository as context: docker build -f deploy/member-svc.Dockerfile .
FROM golang:1.26 AS build
ENV CGO_ENABLED=0 GOWORK=off GOTOOLCHAIN=local
WORKDIR /src
COPY client client
COPY contract contract
COPY outbox outbox
COPY service service
COPY devstack/testenv/go.mod devstack/testenv/go.mod
COPY member-svc member-svc
WORKDIR /src/member-svc
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -trimpath -ldflags=-s -o /out/member-svc .

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/member-svc /member-svc
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/member-svc"]
CMD ["serve"]
