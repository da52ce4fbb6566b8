// Keeps a page up to date and saves a few clicks; see the package's doc.go. Without it everything still works.
"use strict";
(() => {
  let events = document.querySelector("[data-events]")?.dataset.events;
  const every = document.querySelector("[data-every]")?.dataset.every;
  const pauseButton = document.querySelector("[data-pause]");
  const say = text => { document.getElementById("news").textContent = text; };
  let paused = sessionStorage.getItem("paused") === "yes";
  let busy = false, again = false;

  // inUse reports whether somebody is using an element: it has the focus, a selection or changed fields.
  const inUse = e => e.contains(document.activeElement) && document.activeElement !== document.body && document.activeElement !== e
    || e.querySelector("input:checked:not([type=hidden]), details[open]") !== null
    || !getSelection().isCollapsed && getSelection().containsNode(e, true)
    || [...e.querySelectorAll("input, textarea")].some(i => i.value !== i.defaultValue);

  const swap = (old, now) => { if (!inUse(old) && old.innerHTML !== now.innerHTML) old.innerHTML = now.innerHTML; };

  // rows updates the rows that are still there, strikes out those that are not, and announces new ones. If the page is as
  // long as before, missing rows at the end were only pushed off it by new ones.
  const rows = (old, now) => {
    let news = 0, gone = 0, pushed = now.rows.length >= old.rows.length;
    for (const row of now.rows) {
      const mine = row.id && document.getElementById(row.id);
      if (!mine) news++;
      else if (!inUse(mine) && mine.innerHTML !== row.innerHTML) mine.innerHTML = row.innerHTML;
    }
    for (const row of [...old.rows].reverse()) {
      const here = now.querySelector(`#${CSS.escape(row.id)}`) !== null;
      pushed &&= !here;
      row.classList.toggle("gone", !here && !pushed);
      if (!here && !pushed) gone++;
    }
    announce(old, now, old.rows.length === 0 ? "" : news ? `${news} new` : gone ? `${gone} gone` : "");
    if (old.rows.length === 0) old.innerHTML = now.innerHTML;
  };

  const announce = (old, now, news) => {
    const scroll = old.closest(".scroll") || old.closest("table");
    let bar = document.getElementById("news-bar");
    if (!news) { bar?.remove(); return; }
    if (!bar) {
      bar = document.createElement("p");
      bar.id = "news-bar";
      bar.className = "news-bar";
      bar.append(document.createElement("button"));
      scroll.before(bar);
    }
    const text = `${news} – show`;
    if (bar.firstChild.textContent !== text) { bar.firstChild.textContent = text; say(news); }
    bar.firstChild.onclick = () => { old.innerHTML = now.innerHTML; bar.remove(); scroll.focus(); tick(); };
  };

  const refresh = async () => {
    if (paused) return;
    if (busy) { again = true; return; }
    busy = true;
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) { location.reload(); return; }
      if (!answer.ok) return; // what is shown stays; the next event tries again
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (paused) return;
      for (const now of fresh.querySelectorAll("[data-live][id], tbody[data-rows][id]")) {
        const old = document.getElementById(now.id);
        if (old) (now.hasAttribute("data-rows") ? rows : swap)(old, now);
      }
      document.title = fresh.title;
      events = fresh.querySelector("[data-events]")?.dataset.events;
      tick();
    } catch { // the server is away; the next event tries again
    } finally {
      setTimeout(() => { busy = false; if (again) { again = false; refresh(); } }, 500);
    }
  };

  const follow = () => {
    if (!events) return;
    const stream = new EventSource(events);
    for (const kind of ["message", "state", "changed"]) stream.addEventListener(kind, refresh);
    // A browser reconnects when a stream breaks, but not when one is refused, for example because too many are open.
    stream.addEventListener("error", () => {
      if (events && stream.readyState === EventSource.CLOSED) setTimeout(() => refresh().then(follow), 10000);
    });
    addEventListener("pagehide", () => stream.close());
  };

  const showPause = () => {
    pauseButton.hidden = false;
    pauseButton.textContent = paused ? "Resume live updates" : "Pause live updates";
  };
  pauseButton?.addEventListener("click", () => {
    paused = !paused;
    sessionStorage.setItem("paused", paused ? "yes" : "no");
    showPause();
    refresh();
  });
  if (pauseButton) showPause(); else paused = false;

  // Times: "3 min ago", "in 12 s".
  const span = s => s < 100 ? `${Math.round(s)} s` : s < 6000 ? `${Math.round(s / 60)} min` : s < 172800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
  const tick = () => {
    for (const t of document.querySelectorAll("time[data-ago], time[data-countdown]")) {
      const seconds = (Date.parse(t.dateTime) - Date.now()) / 1000;
      t.title = t.title || t.textContent;
      const text = "countdown" in t.dataset ? (seconds > 0 ? `in ${span(seconds)}` : "any moment") : seconds > -1 ? "now" : `${span(-seconds)} ago`;
      if (t.textContent !== text) t.textContent = text;
    }
    for (const b of document.querySelectorAll("[data-copy][hidden]")) b.hidden = false; // including new ones
  };
  tick();
  setInterval(tick, 1000);

  document.addEventListener("click", async e => {
    const copy = e.target.closest("[data-copy]");
    if (!copy) return;
    const text = document.querySelector(copy.dataset.copy).textContent.trim();
    try { await navigator.clipboard.writeText(text); say("Copied"); copy.textContent = "Copied"; } catch { say("The browser does not allow copying"); getSelection().selectAllChildren(document.querySelector(copy.dataset.copy)); }
  });
  document.addEventListener("change", e => {
    const all = e.target.dataset.checkAll;
    if (all) for (const box of document.querySelectorAll(`input[type=checkbox][name="${all}"]`)) box.checked = e.target.checked;
  });
  follow();
  if (every) setInterval(refresh, Number(every));
  if (events || every) addEventListener("pageshow", e => { if (e.persisted) location.reload(); });
})();
