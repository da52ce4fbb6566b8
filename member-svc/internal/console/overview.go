package console

import "net/http"

func (c *Console) overview(r *http.Request) (view, error) {
	o, err := c.api.Overview(r.Context())
	if err != nil {
		return view{}, err
	}
	return view{template: "overview", title: "Overview", data: o, every: 5000}, nil
}
