// Package console is the operators' console: pages on top of the admin API. The console calls that API, in its
// own process, for everything that it shows and does. So the same rules, roles and audit apply, and nothing is
// possible in the console only.
//
//	browser ── GET  /console/sagas?state=… ──▶ screen ── client.Admin ──▶ admin API ──▶ store
//	        ── POST /console/sagas/{id}/retry ▶ action ── client.Admin ──▶ admin API ──▶ store
//	        ◀─ 303  to the page that shows the result
//	        ◀─ /console/events ── Pulse: one small query a second while any page is open
//
// A screen is a GET that shows one template; its filters are the URL's query, with the names of the API. An
// action is a POST of a form and ends with a redirect. Only operators see buttons; if a viewer sends such a
// form anyway, the API refuses it.
package console
