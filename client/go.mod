module github.com/signup-saga/signup-saga/client

go 1.26.0
