package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/signup-saga/signup-saga/service"
)

// adminToken is the admin-token subcommand: it creates a token for an operator or a viewer. It needs no
// configuration and changes no file.
func adminToken(args []string, stdout io.Writer) error {
	const usage = "usage: admin-token NAME viewer|operator [--expires 90d]"
	var expires time.Time
	if len(args) == 4 && args[2] == "--expires" {
		lifetime, err := parseDays(args[3])
		if err != nil {
			return fmt.Errorf("--expires: %w; %s", err, usage)
		}
		expires, args = time.Now().Add(lifetime), args[:2]
	}
	if len(args) != 2 {
		return fmt.Errorf("%w; %s", service.ErrUsage, usage)
	}
	secret, line, err := service.NewToken(args[0], args[1], expires)
	if err != nil {
		return fmt.Errorf("%w; %s", err, usage)
	}
	_, err = fmt.Fprintf(stdout, `The token, which is shown only once. Give it to its owner:
%s
The line for the file that ADMIN_TOKENS_FILE names:
%s
`, secret, line)
	return err
}

// parseDays parses a positive lifetime: days as in 90d, or a Go duration.
func parseDays(text string) (d time.Duration, err error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n int
		n, err = strconv.Atoi(days)
		d = time.Duration(n) * 24 * time.Hour
		if n > 36500 {
			d = 0
		}
	} else {
		d, err = time.ParseDuration(text)
	}
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("%q is not a lifetime such as 90d or 12h", text)
	}
	return d, nil
}
