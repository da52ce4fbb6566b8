package api

import _ "embed" // the documents

// The documents that the listeners serve as /openapi.json. The contract test checks the listeners against them.
var (
	//go:embed public.yaml
	publicDocument []byte
	//go:embed admin.yaml
	adminDocument []byte
)
