"use strict";
(() => {
  const slider = document.getElementById("threshold");
  const shown = document.getElementById("value");
  const regions = [...document.querySelectorAll("img[data-score]")];
  const counts = [...document.querySelectorAll("[data-count]")];
  const uses = [...document.querySelectorAll("a[data-use]")];
  const apply = () => {
    const least = Number(slider.value);
    uses.forEach((link) => {
      const address = new URL(link.href);
      if (least > 0) address.searchParams.set("threshold", least.toFixed(2));
      else address.searchParams.delete("threshold");
      link.href = address.href;
    });
    shown.textContent = least.toFixed(2);
    regions.forEach((region) => { region.hidden = Number(region.dataset.score) < least; });
    counts.forEach((count) => {
      const own = [...count.closest("td").querySelectorAll("img[data-score]")];
      count.textContent = `${own.filter((region) => !region.hidden).length} of ${own.length} regions`;
    });
  };
  slider.addEventListener("input", apply);
  apply();
})();
