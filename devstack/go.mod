module github.com/signup-saga/signup-saga/devstack

go 1.26.0

replace github.com/signup-saga/signup-saga/client => ../client

replace github.com/signup-saga/signup-saga/contract => ../contract

replace github.com/signup-saga/signup-saga/devstack/testenv => ./testenv

replace github.com/signup-saga/signup-saga/service => ../service

require (
	github.com/emersion/go-smtp v0.25.1
	github.com/jackc/pgx/v5 v5.12.0
	github.com/nats-io/nats-server/v2 v2.15.2
	github.com/signup-saga/signup-saga/client v0.0.0
	github.com/signup-saga/signup-saga/contract v0.0.0
	github.com/signup-saga/signup-saga/devstack/testenv v0.0.0
	github.com/signup-saga/signup-saga/service v0.0.0
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
	golang.org/x/term v0.47.0
)

require (
	github.com/antithesishq/antithesis-sdk-go v0.8.0-default-no-op // indirect
	github.com/emersion/go-sasl v0.0.0-20241020182733-b788ff22d5a6 // indirect
	github.com/google/go-tpm v0.9.8 // indirect
	github.com/jackc/pgpassfile v1.0.0 // indirect
	github.com/jackc/pgservicefile v0.0.0-20240606120523-5a60cdf6a761 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/minio/highwayhash v1.0.4 // indirect
	github.com/nats-io/jwt/v2 v2.8.2 // indirect
	github.com/nats-io/nkeys v0.4.16 // indirect
	github.com/nats-io/nuid v1.0.1 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/text v0.43.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace github.com/signup-saga/signup-saga/outbox => ../outbox

replace github.com/signup-saga/signup-saga/outbox/outboxotel => ../outbox/outboxotel

replace github.com/signup-saga/signup-saga/outbox/outboxprom => ../outbox/outboxprom
