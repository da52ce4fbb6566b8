package client_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
)

// Somebody signs up, whatever goes wrong on the way, and learns when everything is ready.
func Example() {
	ctx := context.Background()
	members := client.NewPublic("http://127.0.0.1:8080", nil)
	signup, err := members.SignUpRetry(ctx, wire.NewMember{Username: "mina", Password: "a long enough one"},
		client.DefaultRetry)
	var refusal *wire.Problem
	if errors.As(err, &refusal) && refusal.Code == "username_taken" {
		fmt.Println("choose another name")
	}
	if err != nil {
		return
	}
	for now, err := range members.Watch(ctx, signup.SignupID) {
		fmt.Println(now.State, err)
	}
}
