package storetest

// Damages returns kinds of damage to a row of signup_saga that its constraints allow: by a newer or an older
// version, by a manual edit or by a disk. The key names the damage; the value is the SET list of an UPDATE.
func Damages() map[string]string {
	all := map[string]string{
		"next step":          "step = 1",
		"unknown step":       "step = 32767",
		"unknown, open":      "step = 7, state = 'provisioning', due_at = now()",
		"unknown, leaving":   "step = 7, state = 'withdrawing', due_at = now()",
		"unknown, attention": "step = 7, state = 'needs_attention', error_class = 'rejected', error_fingerprint = 'x'",
		"unknown, due": `step = 7, state = 'withdraw_needs_attention', error_class = 'gave_up',
			due_at = '-infinity'`,
		"withdrawn":  "state = 'withdrawn'",
		"generation": "generation = 9223372036854775807",
		"observed":   "observed_generation = -9223372036854775808",
		"version":    "version = 9223372036854775807",
		"redrives":   "redrives = 2147483647, state = 'provisioning', due_at = now()",
		"retry":      "retry_open = true, state = 'provisioning', due_at = now()",
		"retried":    "retried = true",
		"trace":      "traceparent = E'00-x\\r\\nNats-Msg-Id: 1'",
		"long trace": "traceparent = repeat('-', 100000)",
		"class":      "error_class = E'\\x01 damaged\\n', state = 'needs_attention'",
		"long class": `error_class = (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 400) i),
			state = 'needs_attention'`,
		"error when ready": "error_class = 'rejected', error_fingerprint = 'x', error_message = 'x'",
		"long message": `error_message = repeat('x', 1000000), error_class = 'rejected',
			state = 'needs_attention'`,
		"no fingerprint": "error_class = 'rejected', state = 'needs_attention'",
		"fingerprint": `error_fingerprint = E'<b>\u202e\n&?#%00' || repeat('x', 50000), error_class = 'x',
			state = 'needs_attention'`,
		"signup id": "signup_id = '../' || E'\\n?#%00<b>' || id",
	}
	times := map[string]string{
		"never": "'infinity'", "always": "'-infinity'",
		"far ahead": "'294276-12-31 23:59:59Z'", "long ago": "'4713-01-01 00:00:00Z BC'",
	}
	states := map[string]string{
		"":                 "",
		" of an open saga": ", state = 'provisioning', due_at = coalesce(due_at, now())",
		" of a failed one": ", state = 'needs_attention', error_class = 'gave_up', error_fingerprint = 'gave_up'",
	}
	for name, value := range times {
		for of, state := range states {
			for _, column := range []string{"opened_at", "commanded_at", "created_at", "updated_at"} {
				all[column+" "+name+of] = column + " = " + value + state
			}
		}
		all["due_at "+name] = "due_at = " + value
		all["due_at "+name+", open"] = "due_at = " + value + ", state = 'provisioning'"
	}
	return all
}
