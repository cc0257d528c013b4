// The keys of a review: j and k go from image to image, a, s, w and u press the buttons of the image that has the focus.
(() => {
  const items = [...document.querySelectorAll(".review > li")];
  const verdicts = { a: "accept", s: "skip", w: "wrong", u: "" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
    const here = items.findIndex((item) => item.contains(document.activeElement));
    if (event.key === "j" || event.key === "k") {
      const next = Math.min(items.length - 1, Math.max(0, here + (event.key === "j" ? 1 : -1)));
      items[next]?.querySelector("button").focus();
    } else if (here >= 0 && event.key in verdicts) {
      items[here].querySelector(`button[value="${verdicts[event.key]}"]`)?.click();
    } else {
      return;
    }
    event.preventDefault();
  });
  if (location.hash === "#images") items[0]?.querySelector("button").focus();  // after a verdict, on with the next
})();
