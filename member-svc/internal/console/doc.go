// Package console is the operators' console: pages on top of the admin API. It calls
// that API, in its own process, for whatever it shows and does: the same rules hold,
// the same roles and the same audit, and there is nothing that only the console can do.
//
//	browser ── GET  /console/sagas?state=… ──▶ screen ── client.Admin ──▶ admin API ──▶ store
//	        ── POST /console/sagas/{id}/retry ▶ action ── client.Admin ──▶ admin API ──▶ store
//	        ◀─ 303  to the page that shows what came of it
//	        ◀─ /console/events ── Pulse: one small query a second while anybody looks
//
// A screen is a GET that shows one template; its filters are the URL's, by the names of
// the API. An action is a POST of a form and ends with a redirect. Buttons are for
// operators; viewers do not see them, and the API refuses whoever sends their forms all
// the same.
package console
