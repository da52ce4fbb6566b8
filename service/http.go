package service

import (
	"bytes"
	"cmp"
	"context"
	stdjson "encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/signup-saga/signup-saga/contract/wire"
)

const maxBody = 8 << 10

// NewProblem fills in the type and title that belong to status and code.
func NewProblem(status int, code, detail string, errs ...wire.FieldError) *wire.Problem {
	return &wire.Problem{
		Type: "urn:signup-saga:problem:" + code, Title: http.StatusText(status), Status: status,
		Detail: detail, Code: code, Errors: errs,
	}
}

// Handler answers a request, or returns an error before it has written anything.
type Handler func(w http.ResponseWriter, r *http.Request) error

// Adapt turns h into an http.HandlerFunc. An error that is or wraps a [wire.Problem] is written as that
// problem. Any other error goes through mapErr, which may be nil. If that returns nil, a cancelled request is
// answered 499; any other error is logged and answered 500. A panic is logged once and answered 500. Only the
// route's pattern is logged, because paths contain capabilities.
func Adapt(log *slog.Logger, mapErr func(error) *wire.Problem, h Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		rw := &recorder{ResponseWriter: w}
		r, span := traceRequest(r)
		defer func() { endRequest(span, rw.status) }()
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			//nolint:errorlint // compared as net/http does: a panic's value, not an error's chain
			if v == http.ErrAbortHandler {
				panic(v) //nolint:forbidigo // net/http's own way to abort a response
			}
			log.ErrorContext(r.Context(), "panic", "method", r.Method, "route", r.Pattern, "panic", v, "stack",
				string(debug.Stack()))
			if rw.status != 0 {
				//nolint:forbidigo // the answer is broken: net/http lets the client see that
				panic(http.ErrAbortHandler)
			}
			WriteProblem(rw, internalProblem())
		}()
		err := h(rw, r)
		if err == nil {
			return
		}
		p := toProblem(err, mapErr)
		if p == nil {
			p = internalProblem()
			log.ErrorContext(r.Context(), "request failed", "method", r.Method, "route", r.Pattern, "error", err)
		}
		if rw.status == 0 {
			WriteProblem(rw, p)
		}
	}
}

func toProblem(err error, mapErr func(error) *wire.Problem) *wire.Problem {
	var p *wire.Problem
	if errors.As(err, &p) {
		return p
	}
	if mapErr != nil {
		if p = mapErr(err); p != nil {
			return p
		}
	}
	if errors.Is(err, context.Canceled) {
		return NewProblem(499, "client_closed_request", "the client closed the request")
	}
	return nil
}

func internalProblem() *wire.Problem {
	return NewProblem(http.StatusInternalServerError, "internal", "something went wrong; it has been logged")
}

// recorder remembers the status of a response that has begun.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = cmp.Or(r.status, status)
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.status = cmp.Or(r.status, http.StatusOK)
	return r.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the wrapped writer.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// WriteProblem writes p as application/problem+json.
func WriteProblem(w http.ResponseWriter, p *wire.Problem) {
	if p.RetryAfter > 0 {
		seconds := (p.RetryAfter + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.Itoa(int(seconds)))
	}
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Cache-Control", "no-store")
	_ = writeJSON(w, p.Status, "application/problem+json", p) // a Problem always encodes
}

// WriteJSON writes v, encoded by encoding/json, with the given status. If v cannot be encoded, it returns an
// error and writes nothing.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	return writeJSON(w, status, "application/json", v)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) error {
	var body bytes.Buffer
	if err := stdjson.NewEncoder(&body).Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(body.Len()))
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	// A write fails only if the client is gone.
	_, _ = w.Write(body.Bytes())
	return nil
}

// DecodeJSON reads the request's body into dst, strictly: one value of at most
// 8 KiB, UTF-8, no unknown or duplicate member, names in exact case. Errors are
// a [wire.Problem]: 400 invalid_json, 408, 413 body_too_large, 415.
func DecodeJSON(w http.ResponseWriter, r *http.Request, dst any) error {
	media, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	charset := cmp.Or(params["charset"], "utf-8")
	if err != nil || media != "application/json" || !strings.EqualFold(charset, "utf-8") {
		w.Header().Set("Accept", "application/json")
		return NewProblem(http.StatusUnsupportedMediaType, "unsupported_media_type",
			"the body must be application/json in UTF-8")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = json.Unmarshal(body, dst, json.RejectUnknownMembers(true))
	}
	var tooLarge *http.MaxBytesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &tooLarge):
		return NewProblem(http.StatusRequestEntityTooLarge, "body_too_large",
			fmt.Sprintf("the body must not exceed %d bytes", tooLarge.Limit))
	case errors.Is(err, os.ErrDeadlineExceeded):
		return NewProblem(http.StatusRequestTimeout, "request_timeout", "the body did not arrive in time")
	}
	return NewProblem(http.StatusBadRequest, "invalid_json", "the body is not the JSON expected here", jsonError(err))
}

// jsonError returns where the error is and what it is, without the offending value.
func jsonError(err error) wire.FieldError {
	var semantic *json.SemanticError
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntactic) && errors.Is(err, jsontext.ErrDuplicateName):
		return wire.FieldError{Pointer: string(syntactic.JSONPointer), Detail: "duplicate field"}
	case errors.As(err, &syntactic):
		return wire.FieldError{Pointer: string(syntactic.JSONPointer), Detail: "malformed JSON"}
	case errors.As(err, &semantic) && errors.Is(err, json.ErrUnknownName):
		return wire.FieldError{Pointer: string(semantic.JSONPointer), Detail: "unknown field"}
	case errors.As(err, &semantic):
		return wire.FieldError{Pointer: string(semantic.JSONPointer), Detail: "wrong type or out of range"}
	default:
		return wire.FieldError{Pointer: "", Detail: "incomplete body"}
	}
}
