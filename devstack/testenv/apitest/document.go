package apitest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// document is the part of an OpenAPI document that is checked. It is read strictly: a keyword that is not understood
// here is an error, so nothing that a document says is left unchecked.
type document struct {
	OpenAPI, Info, Servers, Tags any
	Security                     []map[string][]string
	Paths                        map[string]pathItem
	Components                   struct {
		Schemas, SecuritySchemes any
		Parameters, Headers      map[string]parameter
		RequestBodies            map[string]content
		Responses                map[string]response
		Examples                 map[string]example
	}

	schemas *jsonschema.Compiler
}

type pathItem struct {
	Parameters             []parameter
	Get, Post, Put, Delete *operation
}

func (p pathItem) operations() map[string]*operation {
	all := map[string]*operation{"GET": p.Get, "POST": p.Post, "PUT": p.Put, "DELETE": p.Delete}
	maps.DeleteFunc(all, func(_ string, o *operation) bool { return o == nil })
	return all
}

type operation struct {
	OperationID, Tags, Summary, Description any
	Security                                *[]map[string][]string
	Parameters                              []parameter
	RequestBody                             content
	Responses                               map[string]response
}

type reference struct {
	Ref string `json:"$ref"`
}

// parameter is a parameter or a header.
type parameter struct {
	reference
	Name, In    string
	Description any
	Required    bool
	Empty       bool `json:"allowEmptyValue"`
	Schema      any
	Example     any
	schema      *jsonschema.Schema
}

type response struct {
	reference
	Description string
	Headers     map[string]*parameter
	Content     map[string]*media
}

type content struct {
	reference
	Description any
	Required    bool
	Content     map[string]*media
}

type media struct {
	Schema   any
	Example  any
	Examples map[string]example
	schema   *jsonschema.Schema
}

type example struct {
	reference
	Summary, Description any
	Value                any
}

const root = "openapi.json"

// parse reads a document, replaces references by what they point to, and compiles the schemas.
func parse(text []byte) (*document, error) {
	d := &document{schemas: jsonschema.NewCompiler()}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	if err := decoder.Decode(d); err != nil {
		return nil, err
	}
	all, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	d.schemas.AssertFormat()
	if err := d.schemas.AddResource(root, all); err != nil {
		return nil, err
	}
	var errs []error
	for path, item := range d.Paths {
		place := "/paths/" + strings.ReplaceAll(path, "/", "~1")
		for i := range item.Parameters {
			errs = append(errs, d.parameter(&item.Parameters[i], fmt.Sprintf("%s/parameters/%d", place, i)))
		}
		for method, o := range item.operations() {
			if err := d.resolve(o, place+"/"+strings.ToLower(method)); err != nil {
				errs = append(errs, fmt.Errorf("%s %s: %w", method, path, err))
			}
			o.Parameters = append(o.Parameters, item.Parameters...)
			if o.Security == nil {
				o.Security = &d.Security
			}
		}
	}
	return d, errors.Join(errs...)
}

// follow replaces a reference to a component, and its place, by the component and the place of that.
func follow[T any](value *T, place *string, ref, kind string, components map[string]T) error {
	if ref == "" {
		return nil
	}
	name, found := strings.CutPrefix(ref, "#/components/"+kind+"/")
	component, known := components[name]
	if !found || !known {
		return fmt.Errorf("%s is not one of the %s", ref, kind)
	}
	*value, *place = component, strings.TrimPrefix(ref, "#")
	return nil
}

func (d *document) resolve(o *operation, place string) error {
	var errs []error
	for i := range o.Parameters {
		errs = append(errs, d.parameter(&o.Parameters[i], fmt.Sprintf("%s/parameters/%d", place, i)))
	}
	body := place + "/requestBody"
	errs = append(errs, follow(&o.RequestBody, &body, o.RequestBody.Ref, "requestBodies", d.Components.RequestBodies),
		d.content(o.RequestBody.Content, body))
	for status, r := range o.Responses {
		at := place + "/responses/" + status
		errs = append(errs, follow(&r, &at, r.Ref, "responses", d.Components.Responses), d.content(r.Content, at))
		if r.Description == "" {
			errs = append(errs, fmt.Errorf("%s: no description", at))
		}
		for name, header := range r.Headers {
			errs = append(errs, d.parameter(header, at+"/headers/"+name))
		}
		o.Responses[status] = r
	}
	return errors.Join(errs...)
}

func (d *document) parameter(p *parameter, place string) error {
	if p.schema != nil { // it is part of a component that was followed before
		return nil
	}
	kind, components := "parameters", d.Components.Parameters
	if strings.Contains(place, "/headers/") {
		kind, components = "headers", d.Components.Headers
	}
	if err := follow(p, &place, p.Ref, kind, components); err != nil {
		return err
	}
	var err error
	if p.schema, err = d.schemas.Compile(root + "#" + place + "/schema"); err != nil {
		return err
	}
	for _, kind := range p.types() {
		if kind == "array" || kind == "object" {
			err = fmt.Errorf("%s: this package does not understand a parameter of type %s", place, kind)
		}
	}
	if p.Example != nil {
		err = errors.Join(err, p.schema.Validate(p.Example))
	}
	return err
}

func (d *document) content(types map[string]*media, place string) (err error) {
	for contentType, m := range types {
		if m.schema != nil { // as above
			continue
		}
		at := place + "/content/" + strings.ReplaceAll(contentType, "/", "~1")
		var failed error
		if m.schema, failed = d.schemas.Compile(root + "#" + at + "/schema"); failed != nil {
			return failed
		}
		if m.Example != nil {
			m.Examples = map[string]example{"": {Value: m.Example}}
		}
		for name, e := range m.Examples {
			err = errors.Join(err, follow(&e, new(string), e.Ref, "examples", d.Components.Examples))
			if failed := m.schema.Validate(e.Value); failed != nil {
				err = errors.Join(err, fmt.Errorf("%s: example %s: %w", at, name, failed))
			}
			m.Examples[name] = e
		}
	}
	return err
}

func (p *parameter) types() []string {
	s := p.schema
	for s.Ref != nil {
		s = s.Ref
	}
	if s.Types == nil {
		return nil
	}
	return s.Types.ToStrings()
}

// check validates the values of a parameter or header.
func (p *parameter) check(name string, values []string) error {
	switch {
	case len(values) == 0 && p.Required:
		return fmt.Errorf("'%s' is missing", name)
	case len(values) == 0:
		return nil
	case len(values) > 1:
		return fmt.Errorf("'%s' has %d values", name, len(values))
	case values[0] == "" && p.Empty:
		return nil
	}
	var value any = values[0]
	for _, kind := range p.types() {
		if _, err := strconv.ParseFloat(values[0], 64); err == nil && (kind == "integer" || kind == "number") {
			value = json.Number(values[0])
		}
		if parsed, err := strconv.ParseBool(values[0]); err == nil && kind == "boolean" {
			value = parsed
		}
	}
	if err := p.schema.Validate(value); err != nil {
		return fmt.Errorf("'%s': %w", name, err)
	}
	return nil
}

// find returns the operation of a request, with its path and the values in it. A path without values comes first.
func (d *document) find(method string, at *url.URL) (found *operation, path string, values url.Values) {
	segments := strings.Split(at.EscapedPath(), "/")
	for candidate, item := range d.Paths {
		names := strings.Split(candidate, "/")
		taken := url.Values{}
		same := slices.EqualFunc(names, segments, func(name, segment string) bool {
			if !strings.HasPrefix(name, "{") {
				return name == segment
			}
			value, err := url.PathUnescape(segment)
			taken.Set(strings.Trim(name, "{}"), value)
			return err == nil && value != ""
		})
		if o := item.operations()[method]; same && o != nil && (found == nil || len(taken) < len(values)) {
			found, path, values = o, candidate, taken
		}
	}
	return found, path, values
}

// checkRequest validates a request with its body. inPath holds the values in the path.
func (o *operation) checkRequest(request *http.Request, body []byte, inPath url.Values) error {
	var errs []error
	in := map[string]map[string][]string{
		"path": inPath, "query": request.URL.Query(), "header": maps.Clone(request.Header),
	}
	for _, p := range o.Parameters {
		name := p.Name
		if p.In == "header" {
			name = http.CanonicalHeaderKey(name)
		}
		errs = append(errs, p.check(p.Name, in[p.In][name]))
		delete(in[p.In], name)
	}
	for name := range in["query"] {
		errs = append(errs, fmt.Errorf("an undocumented parameter '%s'", name))
	}
	for name := range in["header"] {
		if !slices.Contains(general, name) && name != "Authorization" && name != "User-Agent" {
			errs = append(errs, fmt.Errorf("an undocumented header '%s'", name))
		}
	}
	open := func(schemes map[string][]string) bool { return len(schemes) == 0 }
	if len(*o.Security) > 0 && !slices.ContainsFunc(*o.Security, open) && request.Header.Get("Authorization") == "" {
		errs = append(errs, errors.New("no credentials are sent"))
	}
	if len(body) > 0 || o.RequestBody.Required {
		errs = append(errs, checkBody(o.RequestBody.Content, request.Header.Get("Content-Type"), body))
	}
	return errors.Join(errs...)
}

func (r *response) check(header http.Header, body []byte) error {
	var errs []error
	undocumented := maps.Clone(header)
	for name, h := range r.Headers {
		errs = append(errs, h.check(name, header.Values(name)))
		undocumented.Del(name)
	}
	for name := range undocumented {
		if !slices.Contains(general, name) {
			errs = append(errs, fmt.Errorf("an undocumented header '%s'", name))
		}
	}
	if (len(r.Content) == 0) != (len(body) == 0) {
		errs = append(errs, fmt.Errorf("the body has %d bytes", len(body)))
	} else if len(body) > 0 {
		errs = append(errs, checkBody(r.Content, header.Get("Content-Type"), body))
	}
	return errors.Join(errs...)
}

func checkBody(documented map[string]*media, contentType string, body []byte) error {
	base, _, err := mime.ParseMediaType(contentType)
	m := documented[base]
	if err != nil || m == nil {
		return fmt.Errorf("an undocumented content type %q", contentType)
	}
	var value any = string(body)
	if strings.HasSuffix(base, "json") {
		if value, err = jsonschema.UnmarshalJSON(bytes.NewReader(body)); err != nil {
			return err
		}
	}
	return m.schema.Validate(value)
}
