module github.com/signup-saga/signup-saga/devstack

go 1.26.0

replace github.com/signup-saga/signup-saga/contract => ../contract
replace github.com/signup-saga/signup-saga/devstack/testenv => ./testenv
