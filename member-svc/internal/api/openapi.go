package api

import _ "embed" // the documents

// What the listeners serve as /openapi.json. The contract test holds them to it.
var (
	//go:embed public.yaml
	publicDocument []byte
	//go:embed admin.yaml
	adminDocument []byte
)
