"use strict";
(() => {
  const images = [...document.querySelectorAll("details.image")];
  const all = document.getElementById("all");
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;

  const show = (item) => {
    item.open = true;
    item.scrollIntoView({ behavior: reduced ? "auto" : "smooth", block: "start" });
    item.querySelector("summary").focus({ preventScroll: true });
  };
  const fromHash = () => {
    const item = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (item && item.matches("details.image")) show(item);
  };
  const setAll = () => {
    const open = images.some((item) => !item.open);
    images.forEach((item) => { item.open = open; });
    label();
  };
  const label = () => {
    all.textContent = images.some((item) => !item.open) ? "Open all" : "Close all";
  };
  const step = (by) => {
    const here = images.findIndex((item) => item.getBoundingClientRect().bottom > 60);
    const atTop = here >= 0 && images[here].getBoundingClientRect().top < 60;
    const next = here < 0 ? images.length - 1 : by > 0 && !atTop ? here : here + by;
    if (images[next]) show(images[next]);
  };
  const masks = () => {
    const hide = document.body.classList.toggle("nomasks");
    document.querySelectorAll("figure.nomasks").forEach((figure) => figure.classList.remove("nomasks"));
    document.querySelectorAll("input.toggle").forEach((box) => { box.checked = !hide; });
  };

  all.addEventListener("click", setAll);
  images.forEach((item) => item.addEventListener("toggle", label));
  document.querySelectorAll("input.toggle").forEach((box) => box.addEventListener("change", () => {
    if (document.body.classList.contains("nomasks")) masks();
    else box.closest("figure").classList.toggle("nomasks", !box.checked);
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    const action = { j: () => step(1), k: () => step(-1), a: setAll, m: masks }[event.key];
    if (action) { event.preventDefault(); action(); }
  });
  addEventListener("hashchange", fromHash);
  fromHash();
  label();
})();
