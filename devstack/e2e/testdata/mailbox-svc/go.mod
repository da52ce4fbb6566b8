module github.com/signup-saga/signup-saga/mailbox-svc

go 1.26.0
