package service

import (
	stdjson "encoding/json"
	"fmt"
	"net/http"
	"sync"

	"go.yaml.in/yaml/v4"

	"github.com/signup-saga/signup-saga/service/etag"
)

// OpenAPI returns a [Handler] that serves a YAML document as JSON.
func OpenAPI(document []byte) Handler {
	convert := sync.OnceValues(func() (*etag.Content, error) {
		var content any
		if err := yaml.Unmarshal(document, &content); err != nil {
			return nil, fmt.Errorf("openapi: %w", err)
		}
		text, err := stdjson.Marshal(content)
		return etag.NewContent(text, "application/json"), err
	})
	return func(w http.ResponseWriter, r *http.Request) error {
		content, err := convert()
		if err != nil {
			return err
		}
		content.ServeHTTP(w, r)
		return nil
	}
}
