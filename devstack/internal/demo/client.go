package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/devstack/internal/stack"
)

const (
	callLimit = 10 * time.Second
	// faultSettles is twice the time for which a storage service may go by an older setting.
	faultSettles = 400 * time.Millisecond
)

// client speaks to the services as a browser, an operator and a broken provider would.
type client struct {
	http *http.Client
	to   stack.Variables
}

// accepted is a signup that was answered with 201: a promise.
type accepted struct {
	SignupID string `json:"signup_id"`
	MemberID string `json:"member_id"`
	Username string `json:"username"`
	State    string `json:"state"`
	took     time.Duration
}

type saga struct {
	SagaID    string `json:"saga_id"`
	State     string `json:"state"`
	LastError struct {
		Class   string `json:"class"`
		Message string `json:"message"`
	} `json:"last_error"`
}

func newClient(to stack.Variables) *client {
	return &client{http: &http.Client{Timeout: callLimit}, to: to}
}

// signUp signs a person with a random name up.
func (c *client) signUp(ctx context.Context) (accepted, error) {
	name := "guest" + strings.ToLower(rand.Text()[:12])
	body := map[string]string{"username": name, "password": rand.Text(), "email": name + "@example.org"}
	began := time.Now()
	var a accepted
	err := c.call(ctx, http.MethodPost, c.to.Get("MEMBER_URL")+"/v1/members", "", body, http.StatusCreated, &a)
	a.took = time.Since(began)
	return a, err
}

// state returns the state of a signup as its owner sees it.
func (c *client) state(ctx context.Context, signupID string) (string, error) {
	var a accepted
	err := c.call(ctx, http.MethodGet, c.to.Get("MEMBER_URL")+"/v1/signups/"+url.PathEscape(signupID), "", nil, http.StatusOK, &a)
	return a.State, err
}

// saga returns a member's saga as an operator sees it.
func (c *client) saga(ctx context.Context, username string) (saga, error) {
	var found struct{ Items []saga }
	address := c.to.Get("ADMIN_URL") + "/admin/v1/sagas?username=" + url.QueryEscape(username)
	if err := c.call(ctx, http.MethodGet, address, c.to.Get("ADMIN_TOKEN"), nil, http.StatusOK, &found); err != nil {
		return saga{}, err
	}
	if len(found.Items) != 1 {
		return saga{}, fmt.Errorf("%d sagas of %s, want one", len(found.Items), username)
	}
	return found.Items[0], nil
}

// retry has an operator send a refused saga's command again.
func (c *client) retry(ctx context.Context, sagaID, reason string) error {
	address := c.to.Get("ADMIN_URL") + "/admin/v1/sagas/" + url.PathEscape(sagaID) + "/retry"
	return c.call(ctx, http.MethodPost, address, c.to.Get("ADMIN_TOKEN"), map[string]string{"reason": reason}, http.StatusAccepted, nil)
}

// provider makes the storage provider misbehave, or stop to ("none"), and returns when every replica goes by it.
func (c *client) provider(ctx context.Context, mode string) error {
	body := map[string]any{"mode": mode, "probability": 1, "latency_ms": 0}
	if err := c.call(ctx, http.MethodPut, c.to.Get("STORAGE_URL")+"/v1/faults", c.to.Get("STORAGE_TOKEN"), body, http.StatusOK, nil); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(faultSettles):
		return nil
	}
}

// mails returns how many mails the mail server has received since it started.
func (c *client) mails(ctx context.Context) (int, error) {
	var box struct{ Count int }
	err := c.call(ctx, http.MethodGet, c.to.Get("MAIL_URL")+"/api/messages", "", nil, http.StatusOK, &box)
	return box.Count, err
}

func (c *client) call(ctx context.Context, method, address, token string, body any, want int, into any) error {
	var content bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&content).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, address, &content)
	if err != nil {
		return err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != want {
		return errors.New(method + " " + address + " answered " + answer.Status + ": " + strings.TrimSpace(string(text)))
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}
