module github.com/signup-saga/signup-saga/contract

go 1.26.0

