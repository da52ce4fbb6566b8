module github.com/signup-saga/signup-saga/devstack/testenv

go 1.26.0

