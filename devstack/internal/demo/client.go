package demo

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/client"
	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

const callLimit = 10 * time.Second

// clients call the services as a browser, an operator and a broken provider would.
type clients struct {
	http    *http.Client
	members *client.Public
	admin   *client.Admin
	storage *client.Storage
	to      stack.Variables
}

// accepted is a signup that was answered with 201: a promise.
type accepted struct {
	client.Signup
	name string
	took time.Duration
}

func newClients(to stack.Variables) *clients {
	h := &http.Client{Timeout: callLimit}
	return &clients{
		http: h, members: client.NewPublic(to.Get("MEMBER_URL"), h),
		admin:   client.NewAdmin(to.Get("ADMIN_URL"), to.Get("ADMIN_TOKEN"), h),
		storage: client.NewStorage(to.Get("STORAGE_URL"), to.Get("STORAGE_TOKEN"), h), to: to,
	}
}

// Guest returns a person with a random name who can sign up.
func Guest() wire.NewMember {
	name := "guest" + strings.ToLower(rand.Text()[:12])
	return wire.NewMember{Username: name, Password: rand.Text(), Email: name + "@example.org"}
}

// signUp signs a guest up.
func (c *clients) signUp(ctx context.Context) (a accepted, err error) {
	guest, began := Guest(), time.Now()
	a.Signup, err = c.members.SignUp(ctx, guest, "")
	a.name, a.took = guest.Username, time.Since(began)
	return a, err
}

// state returns the state of a signup as the member sees it.
func (c *clients) state(ctx context.Context, signupID string) (string, error) {
	s, err := c.members.Signup(ctx, signupID)
	return s.State, err
}

// retry retries a refused signup as an operator.
func (c *clients) retry(ctx context.Context, username, reason string) error {
	found, err := c.admin.Sagas(ctx, client.SagaFilter{Username: username}, client.PageOf{})
	if err != nil {
		return err
	}
	if len(found.Items) != 1 {
		return fmt.Errorf("%d sagas of %s, want one", len(found.Items), username)
	}
	_, err = c.admin.Retry(ctx, found.Items[0].SagaID, client.Act{Reason: reason, Version: found.Items[0].Version})
	return err
}

// provider makes the storage provider misbehave, or behave again ("none"). It returns once every replica applies
// the change.
func (c *clients) provider(ctx context.Context, mode string) error {
	return c.storage.SetFault(ctx, wire.Fault{Mode: mode, Probability: 1})
}

// mails returns how many mails the mail server has received since it started.
func (c *clients) mails(ctx context.Context) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.to.Get("MAIL_URL")+"/api/messages", http.NoBody)
	if err != nil {
		return 0, err
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	var box struct{ Count int }
	err = json.NewDecoder(answer.Body).Decode(&box)
	return box.Count, err
}
