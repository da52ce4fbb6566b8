package console

import "net/http"

// failures shows the groups of what failed alike, the largest first.
func (c *Console) failures(r *http.Request) (view, error) {
	found, err := c.api.Failures(r.Context(), 0)
	return view{template: "failures", title: "Failures", data: found}, err
}
