// Package web is what the pages of the project have in common: templates that are
// written whole or not at all, one stylesheet and one script, and headers under which
// a browser runs nothing else.
//
// A program has its own templates beside the layout of this package:
//
//	templates/overview.html   {{define "main"}} … {{end}}, shown by Pages.Write(w, 200, "overview", page)
//	templates/_badge.html     {{define "badge"}} … {{end}}, for all of them
//
// Pages work without the script. With it ([live.js]) they stay up to date: an element
// with an id and data-live is replaced by what the same page shows now,
//
//	<main data-events="/console/events">   when an event of this stream arrives, or
//	<main data-every="2000">               after so many milliseconds
//
// (or such an attribute on any other element, for a page without a button to pause),
// unless somebody is about to use it (it holds the focus, selected text, a ticked box,
// a value that was typed or an open details element). Rows of <tbody data-rows>, which
// need ids, are updated in place; those that have gone are struck, and new ones
// announced rather than inserted under a reader's eyes. Further attributes: data-pause
// on a button that stops all this, data-copy="#id" on one that copies a text,
// data-check-all="name" on a box that ticks the others, and on <time>: data-ago and
// data-countdown.
//
// [live.js]: live.js
package web
