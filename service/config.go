package service

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"
	"github.com/lmittmann/tint"
)

// Common is the configuration that every service has; services embed it.
type Common struct {
	NATSURL         Secret        `env:"NATS_URL" envDefault:"nats://127.0.0.1:4222" help:"NATS server, tls:// for TLS; the services wait until it is available"`
	NATSCAFile      string        `env:"NATS_CA_FILE" help:"certificate authorities of NATS, PEM; by default those of the system"`
	NATSCertFile    string        `env:"NATS_CERT_FILE" help:"client certificate for NATS, PEM"`
	NATSKeyFile     string        `env:"NATS_KEY_FILE" help:"private key of NATS_CERT_FILE, PEM"`
	NATSReplicas    int           `env:"NATS_REPLICAS" envDefault:"1" help:"replicas of each stream"`
	NATSMaxBytes    int64         `env:"NATS_STREAM_MAX_BYTES" envDefault:"2147483648" help:"maximum size of each stream, in bytes"`
	NATSSetup       string        `env:"NATS_SETUP" envDefault:"serve" help:"who creates streams: serve, or migrate"`
	DrainDelay      time.Duration `env:"DRAIN_DELAY" envDefault:"5s" help:"from not ready to the listener closing"`
	DrainTimeout    time.Duration `env:"DRAIN_TIMEOUT" envDefault:"20s" help:"for everything after DRAIN_DELAY at shutdown"`
	DatabaseTimeout time.Duration `env:"DATABASE_TIMEOUT" envDefault:"2500ms" help:"for the database work of one request"`
	LogFormat       string        `env:"LOG_FORMAT" envDefault:"text" help:"text or json"`
	LogLevel        string        `env:"LOG_LEVEL" envDefault:"info" help:"debug, info, warn or error"`
	FaultsAllowed   string        `env:"FAULTS" envDefault:"off" help:"on allows FAULT, and serves /v1/faults of storage-svc; for tests and demonstrations only"`
	Fault           string        `env:"FAULT" help:"point[:nth] at which the process kills itself, see docs/testing.md"`
}

// Validate implements [Validator].
func (c Common) Validate(check *Checks) {
	check.Require(c.NATSReplicas >= 1 && c.NATSReplicas <= 5, "NATS_REPLICAS: must be 1 to 5")
	check.Require(c.NATSMaxBytes >= 1<<20, "NATS_STREAM_MAX_BYTES: must be at least 1048576")
	check.Require(c.NATSSetup == "serve" || c.NATSSetup == "migrate", "NATS_SETUP: must be serve or migrate")
	check.Require((c.NATSCertFile == "") == (c.NATSKeyFile == ""), "NATS_CERT_FILE, NATS_KEY_FILE: one needs the other")
	check.Require(c.DrainDelay >= 0, "DRAIN_DELAY: must not be negative")
	check.Require(c.DrainTimeout > 0, "DRAIN_TIMEOUT: must be positive")
	check.Require(c.DatabaseTimeout > 0, "DATABASE_TIMEOUT: must be positive")
	check.Require(c.LogFormat == "text" || c.LogFormat == "json", "LOG_FORMAT: must be text or json")
	err := new(slog.LevelVar).UnmarshalText([]byte(c.LogLevel))
	check.Require(err == nil, "LOG_LEVEL: must be debug, info, warn or error")
	check.Require(c.FaultsAllowed == "on" || c.FaultsAllowed == "off", "FAULTS: must be on or off")
	check.Require(c.Fault == "" || c.FaultsAllowed == "on", "FAULT: refused unless FAULTS=on")
	check.Require(c.Fault == "" || faultPoint.MatchString(c.Fault), "FAULT: must be point or point:nth")
	tracingWanted(check)
}

// Logger returns the configured logger, see [NewLogger].
func (c Common) Logger(w io.Writer) *slog.Logger { return NewLogger(w, c.LogFormat, c.LogLevel) }

// External reports whether serve leaves streams and consumers to migrate and broker.
func (c Common) External() bool { return c.NATSSetup == "migrate" }

// LoadConfig fills the struct that cfg points to from the variables named by its `env` tags
// (github.com/caarlos0/env). An empty variable counts as unset. NAME_FILE supplies NAME from a file, without
// line breaks at its end; setting both is an error. The file's mode is not checked: mounted secrets are often
// readable by everything in their container, and the container protects them.
//
// The error lists every problem at once, including those that cfg and the structs that it embeds report if they
// are a [Validator]. It never contains a value.
func LoadConfig(getenv func(string) string, cfg any) error {
	params, err := env.GetFieldParams(cfg)
	if err != nil {
		return fmt.Errorf("describe configuration: %w", err)
	}
	if len(params) < len(ConfigDoc(cfg)) {
		return errors.New("describe configuration: an embedded struct is not exported, so its fields cannot be set")
	}
	var errs []error
	vars := make(map[string]string)
	for _, p := range params {
		value, err := lookup(getenv, p.Key)
		if err != nil {
			errs = append(errs, err)
		} else if value != "" {
			vars[p.Key] = value
		}
	}
	if err := env.ParseWithOptions(cfg, env.Options{Environment: vars}); err != nil {
		errs = append(errs, describe(cfg, err)...)
	}
	eachVariable(cfg, func(name string, field reflect.Value) {
		if s, ok := field.Addr().Interface().(*Secret); ok {
			s.file = getenv(name + "_FILE")
		}
	})
	var check Checks
	check.all(reflect.ValueOf(cfg).Elem())
	if errs = addNew(errs, check.errs); len(errs) > 0 {
		return fmt.Errorf("configuration:\n%w", errors.Join(errs...))
	}
	return nil
}

func lookup(getenv func(string) string, name string) (string, error) {
	value, path := getenv(name), getenv(name+"_FILE")
	if path == "" {
		return value, nil
	}
	if value != "" {
		return "", fmt.Errorf("%s: set twice, %[1]s_FILE is set as well", name)
	}
	value, err := readSecret(path)
	if err == nil && value == "" {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return "", fmt.Errorf("%s_FILE: %w", name, err)
	}
	return value, nil
}

// LogConfig logs the configuration that cfg points to as one line with one attribute per variable. A [Secret]
// shows at most where it points to.
func LogConfig(log *slog.Logger, cfg any) {
	var attrs []any
	eachVariable(cfg, func(name string,
		field reflect.Value) {
		attrs = append(attrs, slog.Any(name, field.Interface()))
	})
	log.Info("configuration", attrs...)
}

// eachVariable calls fn with each variable of the struct that cfg points to.
func eachVariable(cfg any, fn func(name string, field reflect.Value)) {
	v := reflect.ValueOf(cfg).Elem()
	for _, f := range reflect.VisibleFields(v.Type()) {
		if name, _, _ := strings.Cut(f.Tag.Get("env"), ","); name != "" {
			fn(name, v.FieldByIndex(f.Index))
		}
	}
}

// addNew appends the errors of variables that have no error yet. A variable that could not be parsed fails
// validation too, and the second error adds nothing.
func addNew(errs, more []error) []error {
	known := make(map[string]bool)
	for _, err := range errs {
		name, _, _ := strings.Cut(err.Error(), ":")
		known[strings.TrimSuffix(name, "_FILE")] = true
	}
	for _, err := range more {
		if name, _, _ := strings.Cut(err.Error(), ":"); !known[name] {
			errs = append(errs, err)
		}
	}
	return errs
}

// describe rewrites the parser's errors, which name fields, to name variables.
func describe(cfg any, err error) []error {
	var all env.AggregateError
	if !errors.As(err, &all) {
		return []error{err}
	}
	var errs []error
	for _, e := range all.Errors {
		var parse env.ParseError
		var unset env.VarIsNotSetError
		switch {
		case errors.As(e, &parse):
			f, _ := reflect.TypeOf(cfg).Elem().FieldByName(parse.Name)
			name, _, _ := strings.Cut(f.Tag.Get("env"), ",")
			errs = append(errs, fmt.Errorf("%s: %s", name, shapeOf(parse.Type)))
		case errors.As(e, &unset):
			errs = append(errs, fmt.Errorf("%s: required", unset.Key))
		default:
			errs = append(errs, e)
		}
	}
	return errs
}

// shapeOf says how to write a value of type t.
func shapeOf(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "must be a time with its unit, as in 500ms, 20s or 24h"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "must be a whole number"
	default:
		return "not a valid " + t.String()
	}
}

// ConfigVar describes one variable for documentation.
type ConfigVar struct {
	Name     string // of the environment variable
	Default  string // "" for none
	Required bool   // it has no default
	Help     string // from the field's `help` tag
}

// ConfigDoc lists the variables of the struct that cfg points to, in the order
// of its fields, embedded ones included.
func ConfigDoc(cfg any) []ConfigVar {
	var vars []ConfigVar
	t := reflect.TypeOf(cfg).Elem()
	for _, f := range reflect.VisibleFields(t) {
		tag, ok := f.Tag.Lookup("env")
		if !ok {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		vars = append(vars, ConfigVar{
			Name: name, Default: f.Tag.Get("envDefault"), Help: f.Tag.Get("help"),
			Required: strings.Contains(options, "required"),
		})
	}
	return vars
}

// NewLogger returns a logger that writes to w: one JSON object per line if format is "json", otherwise text for
// people, coloured if w is a terminal. An unknown level means info. Records logged with a span's context carry
// its trace id and span id.
func NewLogger(w io.Writer, format, level string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		l = slog.LevelInfo
	}
	if format == "json" {
		return slog.New(tracedLog{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})})
	}
	terminal := false
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil {
			terminal = info.Mode()&os.ModeCharDevice != 0
		}
	}
	return slog.New(tracedLog{tint.NewTextHandler(w,
		&tint.Options{Level: l, TimeFormat: time.TimeOnly, NoColor: !terminal})})
}
