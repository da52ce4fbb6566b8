package console

import "net/http"

// failures shows the kinds of failures, the most frequent first.
func (c *Console) failures(r *http.Request) (view, error) {
	found, err := c.api.Failures(r.Context(), 0)
	return view{template: "failures", title: "Failures", data: found}, err
}
