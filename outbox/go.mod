module github.com/signup-saga/signup-saga/outbox

go 1.26.0

replace github.com/signup-saga/signup-saga/devstack/testenv => ../devstack/testenv
