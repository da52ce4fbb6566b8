package api

import _ "embed" // the document

// document is served as /openapi.json. The contract test holds the service to it.
//
//go:embed openapi.yaml
var document []byte
