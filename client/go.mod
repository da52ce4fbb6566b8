module github.com/signup-saga/signup-saga/client

go 1.26.0

require github.com/signup-saga/signup-saga/contract v0.0.0

replace github.com/signup-saga/signup-saga/contract => ../contract
