package service_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/signup-saga/signup-saga/contract/wire"
	"github.com/signup-saga/signup-saga/service"
)

// FuzzDecodeJSON sends bodies to a handler. Each is either refused with a short problem that does not contain a
// value from the body, or has the same meaning to the strict decoder as to encoding/json.
func FuzzDecodeJSON(f *testing.F) {
	for _, body := range []string{
		`{"name":"x","n":1,"list":["a"],"inner":{"ok":true}}`, `{}`, ``, ` `, `null`, `[]`, `0`, `"`, `{"name":"x"}{}`,
		`{"name":"x"} null`,
		`{"name":"a","name":"b"}`, `{"inner":{"ok":true,"ok":false}}`, `{"NAME":"x"}`, `{"nom":"x"}`,
		"{\"name\":\"\xff\"}", "{\"n\xc0me\":1}", "\ufeff{}",
		`{"name":"\ud800"}`, `{"name":"\u0000"}`, `{"n":1e400}`, `{"n":9223372036854775808}`, `{"n":-0}`, `{"n":1.5}`,
		`{"n":0x1}`, `{"n":NaN}`,
		`{"name":{}}`, `{"list":{}}`, `{"inner":[]}`, `{"list":[1]}`, `{"inner":null,"name":null}`, `{"name":"x",}`,
		`{'name':1}`, `{"name":"x"//}`,
		strings.Repeat("[", 8000), strings.Repeat(`{"inner":`, 900), `{"list":[` + strings.Repeat(`"",`, 2600) + `""]}`,
		`{"` + strings.Repeat("k", 8100) + `":1}`, `{"name":"` + strings.Repeat(`\u00e9`, 1300) + `"}`,
		strings.Repeat(" ", 8193), strings.Repeat("1", 8192),
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		type inner struct {
			OK bool `json:"ok"`
		}
		type request struct {
			Name  string   `json:"name"`
			N     int64    `json:"n"`
			List  []string `json:"list"`
			Inner *inner   `json:"inner"`
		}
		var got request
		var failure error
		w, r := httptest.NewRecorder(), httptest.NewRequest("POST", "/", bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		failure = service.DecodeJSON(w, r, &got)
		var p *wire.Problem
		if failure != nil {
			if !errors.As(failure, &p) || p.Status != 400 && p.Status != 413 ||
				(p.Status == 413) != (len(body) > 8<<10) {
				t.Fatalf("%v", failure)
			}
			service.WriteProblem(w, p)
			if answer := w.Body.Bytes(); !json.Valid(answer) || len(answer) > 64<<10 {
				t.Fatalf("an answer of %d bytes: %.200s", len(answer), answer)
			}
			return
		}
		var want request
		plain := json.NewDecoder(bytes.NewReader(body))
		plain.DisallowUnknownFields()
		if err := plain.Decode(&want); err != nil {
			t.Fatalf("encoding/json: %v", err)
		}
		if _, err := plain.Token(); !errors.Is(err, io.EOF) {
			t.Fatalf("more than one value: %v", err)
		}
		a, _ := json.Marshal(got)
		b, _ := json.Marshal(want)
		if !utf8.Valid(body) || !bytes.Equal(a, b) {
			t.Fatalf("%s and %s", a, b)
		}
	})
}
