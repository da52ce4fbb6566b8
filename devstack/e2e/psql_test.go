package e2e

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// psql runs a psql script. It supports what our scripts use: \set, \getenv, \connect, \gexec, :'variable', and
// statements that end with a line.
func psql(
	ctx context.Context, script string, getenv func(string) string, connect func(database string) (*pgx.Conn, error),
) error {
	conn, err := connect("postgres")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	variables := map[string]string{}
	var statement strings.Builder
	for line := range strings.Lines(script) {
		line = strings.TrimSpace(line)
		words := strings.Fields(line)
		switch {
		case line == "" || strings.HasPrefix(line, "--"):
		case words[0] == `\set`:
		case words[0] == `\getenv`:
			variables[words[1]] = getenv(words[2])
		case words[0] == `\connect`:
			next, err := connect(words[1])
			if err != nil {
				return err
			}
			_ = conn.Close(ctx)
			conn = next
		case strings.HasPrefix(line, `\`):
			return fmt.Errorf("unknown command %s", words[0])
		default:
			fmt.Fprintln(&statement, line)
			if query, ok := strings.CutSuffix(strings.TrimSpace(statement.String()), `\gexec`); ok {
				if err := executeResults(ctx, conn, query); err != nil {
					return err
				}
				statement.Reset()
			} else if strings.HasSuffix(line, ";") {
				if err := execute(ctx, conn, statement.String(), variables); err != nil {
					return err
				}
				statement.Reset()
			}
		}
	}
	if statement.Len() > 0 {
		return fmt.Errorf("the script ends within a statement: %s", statement.String())
	}
	return nil
}

// executeResults executes each row that a query returns.
func executeResults(ctx context.Context, conn *pgx.Conn, query string) error {
	rows, err := conn.Query(ctx, query)
	if err != nil {
		return err
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	for _, statement := range statements {
		if err == nil {
			err = execute(ctx, conn, statement, nil)
		}
	}
	return err
}

var variable = regexp.MustCompile(`:'(\w+)'`)

func execute(ctx context.Context, conn *pgx.Conn, sql string, variables map[string]string) error {
	var unset []string
	sql = variable.ReplaceAllStringFunc(sql, func(match string) string {
		value := variables[variable.FindStringSubmatch(match)[1]]
		if value == "" {
			unset = append(unset, match)
		}
		return "'" + strings.ReplaceAll(value, "'", "''") + "'"
	})
	if len(unset) > 0 {
		return fmt.Errorf("empty: %s", strings.Join(unset, " "))
	}
	if _, err := conn.Exec(ctx, sql); err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}
