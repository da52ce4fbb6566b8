package api

import _ "embed" // the document

// document is served as /openapi.json. The contract test checks the service against it.
//
//go:embed openapi.yaml
var document []byte
