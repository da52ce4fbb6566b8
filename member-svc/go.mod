module github.com/signup-saga/signup-saga/member-svc

go 1.26.0

require github.com/signup-saga/signup-saga/contract v0.0.0

replace github.com/signup-saga/signup-saga/contract => ../contract
replace github.com/signup-saga/signup-saga/outbox => ../outbox
replace github.com/signup-saga/signup-saga/service => ../service
replace github.com/signup-saga/signup-saga/devstack/testenv => ../devstack/testenv
