// Renews a page while something goes on: title, heading and content change in place, so that the keyboard's focus, what
// is open and where the page is scrolled to stay. Nothing changes while a person fills in a form or stopped it.
(() => {
  const box = document.getElementById("renewal");
  const [button, told] = [box.querySelector("button"), box.querySelector("[role=status]")];
  const key = (element) => [element.tagName, element.getAttribute("href"), element.name, element.textContent.trim()].join("\n");
  const fields = () => [...document.querySelectorAll("main :is(input, select, textarea):not([type=hidden])")];
  const changed = (field) => (field.options ? [...field.options].some((option) => option.selected !== option.defaultSelected && option.value)
    : field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue);
  const inUse = () => fields().some((field) => field === document.activeElement || changed(field));
  let paused = false;

  const show = (fresh) => {
    const focused = document.querySelector("main").contains(document.activeElement) ? key(document.activeElement) : null;
    const open = [...document.querySelectorAll("main details")].map((item) => item.open);
    const before = document.querySelector("h1").textContent;
    document.title = fresh.title;
    for (const part of ["header.page", "main"]) {
      document.querySelector(part).replaceChildren(...fresh.querySelector(part).childNodes);
    }
    document.querySelectorAll("main details").forEach((item, i) => { item.open = open[i] ?? item.open; });
    if (focused) [...document.querySelectorAll("main :is(a, button, summary, [tabindex])")].find((it) => key(it) === focused)?.focus({ preventScroll: true });
    const after = document.querySelector("h1").textContent;
    told.textContent = after.trim() === before.trim() ? "" : after.trim();
  };

  const renew = async () => {
    if (!paused && !document.hidden && !inUse()) {
      try {
        const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
        if (!answer.ok) throw new Error(String(answer.status));
        const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
        if (!paused && !inUse()) {
          if (!fresh.getElementById("renewal")) return location.reload();  // it is over: the last state as a whole page
          show(fresh);
        }
      } catch {
        told.textContent = "The backend does not answer; this page may be out of date.";
      }
    }
    setTimeout(renew, 1000 * Number(box.dataset.seconds));
    return undefined;
  };

  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Renew this page again" : "Stop renewing this page";
  });
  box.hidden = false;
  setTimeout(renew, 1000 * Number(box.dataset.seconds));
})();
