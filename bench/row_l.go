package main

import "context"

const flowRate = 500 // events per second

// rowL measures the time from a commit to the consumer.
func (b *bench) rowL(ctx context.Context) error {
	systems := []maker{rawMaker, outboxMaker, replicasMaker}
	if b.peers {
		systems = append(systems, riverTuned, riverDefault, watermillMaker)
	}
	outs := make([][]outcome, len(systems))
	for rep := range b.reps {
		for i, m := range systems {
			var out outcome
			err := b.profiled("L-"+m.name, func() (err error) {
				out, err = b.steady(ctx, m, flowRate, b.flow, nil)
				return err
			})
			if err != nil {
				return err
			}
			outs[i] = append(outs[i], out)
			b.note("L  %d/%d: %s p50 %s, p99 %s ms", rep+1, b.reps, m.name, number(out.p50), number(out.p99))
		}
	}
	raw := outs[0]
	b.report(line{row: "L", what: "commit to consumer at 500/s, p50; limit: read, publish, receive", unit: "ms",
		limit: flows(raw, p50), value: flows(outs[1], p50), goal: atMost(1.3)})
	b.report(line{row: "L", what: "the same, p99", unit: "ms", limit: flows(raw, p99), value: flows(outs[1], p99), goal: atMost(2)})
	b.report(line{row: "L", what: "woken from a replica that stands by, p50", unit: "ms", value: flows(outs[2], p50)})
	b.report(line{row: "L", what: "woken from a replica that stands by, p99", unit: "ms", value: flows(outs[2], p99), goal: atMost(10)})
	for i, m := range systems[3:] {
		b.report(line{row: "L", what: "the outbox, p50; limit: " + m.name, unit: "ms", limit: flows(outs[i+3], p50), value: flows(outs[1], p50)})
		b.report(line{row: "L", what: "the outbox, p99; limit: " + m.name, unit: "ms", limit: flows(outs[i+3], p99), value: flows(outs[1], p99)})
	}
	return nil
}
