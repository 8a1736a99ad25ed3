"use strict";
{
  const folded = () => [...document.querySelectorAll("details:not([open])")];
  let opened = [];
  // Paper cannot be unfolded.
  addEventListener("beforeprint", () => {
    opened = folded().filter((details) => details.querySelector("img"));
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
  // A link leads to what is folded, too, in browsers that do not unfold it by themselves.
  const unfold = () => {
    const details = document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details");
    if (details && !details.open) {
      details.open = true;
      details.scrollIntoView();
    }
  };
  addEventListener("hashchange", unfold);
  unfold();
}
