package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/signup-saga/signup-saga/member-svc/internal/stuck"
	"github.com/signup-saga/signup-saga/service"
)

const (
	deliveryAttempts = 20             // of one mail, and of one notice
	webhookMaxAge    = 24 * time.Hour // after which an unsent notice is dropped
)

// StuckConfig configures the notices of stuck signups.
type StuckConfig struct {
	StuckAfter    time.Duration  `env:"STUCK_AFTER" envDefault:"15m" help:"after which an unanswered signup is reported with signup.stuck"`
	WebhookURL    service.Secret `env:"STUCK_WEBHOOK_URL" help:"receives each signup.stuck; without it nothing is sent"`
	WebhookSecret service.Secret `env:"STUCK_WEBHOOK_SECRET" help:"key that signs them (standardwebhooks.com): whsec_ and 24 to 64 bytes in base64"`
}

// Validate implements [service.Validator].
func (c StuckConfig) Validate(check *service.Checks) {
	check.Require(c.StuckAfter > 0, "STUCK_AFTER: must be positive")
	if u := c.WebhookURL.Reveal(); u != "" {
		check.NoError("STUCK_WEBHOOK_URL", stuck.CheckURL(u))
		_, err := stuck.ParseSecret(c.WebhookSecret.Reveal())
		check.NoError("STUCK_WEBHOOK_SECRET", err)
	}
}

// addWatchers adds the workers that look for signups that do not progress. It returns the handler of notices of
// stuck signups, or nil if there is no webhook.
func addWatchers(cfg Config, b *service.Base) (notices handler, err error) {
	b.Every("notices of stuck signups", min(max(cfg.StuckAfter/10, time.Second), 10*time.Second),
		stuck.Notices(b.Pool, cfg.StuckAfter, b.Wake))
	if cfg.WebhookURL.Reveal() != "" {
		posts := prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "member_webhooks_total", Help: "Notices of stuck signups by result: sent, delayed, dropped, expired.",
		}, []string{"result"})
		for _, result := range []string{stuck.Sent, stuck.Delayed, stuck.Dropped, stuck.Expired} {
			posts.WithLabelValues(result)
		}
		webhook, err := stuck.NewWebhook(stuck.WebhookConfig{
			URL: cfg.WebhookURL.Reveal(), Secret: cfg.WebhookSecret.Reveal(), Log: b.Log,
			MaxAttempts: deliveryAttempts, MaxAge: webhookMaxAge,
			Observe: func(result string, n int) { posts.WithLabelValues(result).Add(float64(n)) },
		}, b.Pool)
		if err != nil {
			return nil, err
		}
		b.Registry.MustRegister(posts)
		notices = webhook.Queue
		b.Every("webhooks", time.Second, webhook.Work)
	}
	return notices, nil
}
