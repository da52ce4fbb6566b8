package main

import (
	"github.com/signup-saga/signup-saga/member-svc/internal/api"
	"github.com/signup-saga/signup-saga/service"
)

// LimitConfig limits how much one client, and all clients together, may use.
type LimitConfig struct {
	SignupRate     int            `env:"SIGNUP_RATE_PER_MINUTE" envDefault:"60" help:"signups, see docs/availability.md"`
	SessionRate    int            `env:"SESSION_RATE_PER_MINUTE" envDefault:"60" help:"passwords tried, likewise"`
	MaxConnections int            `env:"MAX_CONNECTIONS" envDefault:"8192" help:"per listener, see docs/availability.md"`
	MaxStreams     int            `env:"MAX_STREAMS" envDefault:"4096" help:"signup event streams at a time, likewise"`
	TrustedProxies proxyAddresses `env:"TRUSTED_PROXIES" help:"networks of reverse proxies, see docs/reverse-proxy.md"`
}

// proxyAddresses are addresses and networks in text form, see [service.ParseProxies].
type proxyAddresses []string

// Validate implements [service.Validator].
func (c LimitConfig) Validate(check *service.Checks) {
	for name, value := range map[string]int{
		"SIGNUP_RATE_PER_MINUTE": c.SignupRate, "SESSION_RATE_PER_MINUTE": c.SessionRate,
		"MAX_CONNECTIONS": c.MaxConnections, "MAX_STREAMS": c.MaxStreams,
	} {
		check.Require(value > 0 && value <= 1e9, name+": must be positive")
	}
	_, err := service.ParseProxies(c.TrustedProxies)
	check.NoError("TRUSTED_PROXIES", err)
}

func (c LimitConfig) limits() api.Limits {
	return api.Limits{Signups: c.SignupRate, Passwords: c.SessionRate, Streams: c.MaxStreams}
}
