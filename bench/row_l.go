package main

import (
	"context"
	"fmt"
)

const flowRate = 500 // events per second

// rowL measures the time from a commit to the consumer.
func (b *bench) rowL(ctx context.Context) error {
	b.section().method = fmt.Sprintf(
		"%d repetitions of %s at 500 events/s, one transaction each, after %s that does not count. The limit, "+
			"warmed alike: one round trip to Postgres, "+
			"then one message of the same headers and size, published and received. Two replicas are two processes: "+
			"the one that commits stands by, the other one leads",
		b.reps, b.flow, warmUp)
	systems := []maker{rawMaker, outboxMaker, replicasMaker}
	if b.peers {
		systems = append(systems, riverTuned, riverDefault, watermillMaker)
	}
	outs := make([]outcome, len(systems))
	for rep := range b.reps {
		err := rotated(rep, len(systems), func(i int) error {
			var out []outcome
			err := b.profiled("L-"+systems[i].name, func() (err error) {
				out, _, err = b.steady(ctx, systems[i], flowRate, 1, phase{lasts: b.flow})
				return err
			})
			if err != nil {
				return err
			}
			outs[i] = outs[i].and(out[0])
			b.note("   %d/%d: %s p50 %s, p99 %s ms", rep+1, b.reps, systems[i].name, number(out[0].p50[0]),
				number(out[0].p99[0]))
			return nil
		})
		if err != nil {
			return err
		}
	}
	raw, ours, replicas := outs[0], outs[1], outs[2]
	b.report(line{what: "commit to consumer, p50; limit: read, publish, receive", unit: "ms", limit: raw.p50,
		value: ours.p50, goal: atMost(1.3)})
	b.report(line{what: "the same, p99", unit: "ms", limit: raw.p99, value: ours.p99, goal: atMost(2)})
	b.report(line{what: "two replicas, p50; limit: read, publish, receive", unit: "ms", limit: raw.p50,
		value: replicas.p50})
	b.report(line{what: "the same, p99", unit: "ms", limit: raw.p99, value: replicas.p99, goal: atMost(10).ofValue()})
	for i, m := range systems[3:] {
		b.report(line{what: "the outbox, p50; limit: " + m.name, unit: "ms", limit: outs[i+3].p50, value: ours.p50})
		b.report(line{what: "the same, p99", unit: "ms", limit: outs[i+3].p99, value: ours.p99})
	}
	return nil
}
