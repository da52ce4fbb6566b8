// Package web is what the project's pages have in common: templates that are written as a whole or not at all,
// one stylesheet and one script, and headers that prevent browsers from running anything else.
//
// A program has its own templates beside the layout of this package:
//
//	templates/overview.html   {{define "main"}} … {{end}}, shown by Pages.Write(w, 200, "overview", page)
//	templates/_badge.html     {{define "badge"}} … {{end}}, for all of them
//
// Pages work without the script. The script ([live.js]) keeps them up to date: it replaces an element that has
// an id and data-live by what the same page shows now,
//
//	<main data-events="/console/events">   when an event of this stream arrives, or
//	<main data-every="2000">               after so many milliseconds
//
// (or such an attribute on any other element, for a page without a button to pause). It does not replace an
// element that somebody is about to use: one that holds the focus, selected text, a ticked box, a typed value
// or an open details element. Rows of <tbody data-rows>, which need ids, are updated in place. Rows that no
// longer exist are struck through, and new rows are announced rather than inserted while somebody reads.
//
// Further attributes: data-pause on a button that stops all this, data-copy="#id" on a button that copies a
// text, data-check-all="name" on a box that ticks the others, and data-ago and data-countdown on <time>.
//
// [live.js]: live.js
package web
