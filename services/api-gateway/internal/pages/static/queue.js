// The queue, as it changes: the page is asked for again while somebody looks at it.
const every = 5000; // ms

async function renew() {
  if (document.visibilityState === "visible") {
    const notice = document.getElementById("connection");
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      if (answer.redirected) return location.reload(); // to sign in
      if (!answer.ok) throw new Error(answer.statusText);
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const focused = document.activeElement.getAttribute("href");
      document.getElementById("main").replaceWith(page.getElementById("main"));
      say();
      for (const link of document.querySelectorAll("main a")) {
        if (link.getAttribute("href") === focused) link.focus({ preventScroll: true });
      }
      notice.textContent = "";
    } catch {
      notice.textContent = "Reconnecting…";
    }
  }
  setTimeout(renew, every);
}

// say shows times as this place's people write them.
function say() {
  for (const time of document.querySelectorAll("main time")) {
    const exact = new Date(time.dateTime);
    const today = exact.toDateString() === new Date().toDateString();
    time.textContent = today ? exact.toLocaleTimeString() : exact.toLocaleString([], { dateStyle: "short", timeStyle: "short" });
  }
}

say();
setTimeout(renew, every);
