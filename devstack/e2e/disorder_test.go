package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// disorder publishes the contents of the essential streams again, ten times and in random order, while new
// messages arrive. One message in a hundred cannot be decoded.
func (w *world) disorder() error {
	const copies, window, poisonous = 10, 100, 100
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Minute)
	defer cancel()
	nc, err := nats.Connect(w.env["NATS_URL"])
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	const again, poison = "messages again, in another order", "messages that nobody can read"
	for _, name := range []string{"MEMBER_ESSENTIAL", "STORAGE_ESSENTIAL"} {
		messages, err := latest(ctx, js, name, window)
		if err != nil {
			return err
		}
		w.plan(again, copies*window)
		for i := range copies * window {
			if i%window == 0 {
				w.rand.Shuffle(len(messages), func(a, b int) { messages[a], messages[b] = messages[b], messages[a] })
			}
			m := messages[i%window]
			if err := nc.PublishMsg(m); err != nil {
				return err
			}
			w.fired(again)
			if i%poisonous == 0 && name == "MEMBER_ESSENTIAL" {
				w.plan(poison, 1)
				if err := nc.PublishMsg(damaged(m)); err != nil {
					return err
				}
				w.poisoned++
			}
			if i%window == window-1 { // leave time for the relays between two batches of ours
				<-time.After(mathrand.N(200 * time.Millisecond))
			}
		}
	}
	if err := nc.FlushWithContext(ctx); err != nil {
		return err
	}
	err = w.await(func() bool {
		return w.count("STORAGE_DATABASE_URL",
			"SELECT count(*) FROM dead_letter") >= w.poisoned
	})
	w.tally(poison, 0, w.poisoned)
	return err
}

// latest returns the newest n messages of a stream, as they were published.
func latest(ctx context.Context, js jetstream.JetStream, name string, n int) ([]*nats.Msg, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, err
	}
	last := stream.CachedInfo().State.LastSeq
	if last < uint64(n) {
		return nil, fmt.Errorf("stream %s holds only %d messages", name, last)
	}
	var messages []*nats.Msg
	for seq := last; len(messages) < n; seq-- {
		stored, err := stream.GetMsg(ctx, seq)
		if err != nil {
			return nil, fmt.Errorf("message %d of %s: %w", seq, name, err)
		}
		m := nats.NewMsg(stored.Subject)
		m.Data = stored.Data
		for header, values := range stored.Header {
			if !strings.HasPrefix(header, "Nats-") {
				m.Header[header] = values
			}
		}
		messages = append(messages, m)
	}
	return messages, nil
}

// damaged returns a message with the headers of m, except for the ids, and a body that cannot be decoded.
func damaged(m *nats.Msg) *nats.Msg {
	broken := nats.NewMsg(m.Subject)
	for header, values := range m.Header {
		if header != "ce-outboxid" {
			broken.Header[header] = values
		}
	}
	broken.Header["ce-id"] = []string{"broken-" + rand.Text()}
	broken.Data = fmt.Appendf(nil, `{"member_id": %s`, rand.Text())
	return broken
}
