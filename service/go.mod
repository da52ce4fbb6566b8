module github.com/signup-saga/signup-saga/service

go 1.26.0

replace github.com/signup-saga/signup-saga/contract => ../contract
replace github.com/signup-saga/signup-saga/outbox => ../outbox
replace github.com/signup-saga/signup-saga/devstack/testenv => ../devstack/testenv
