// Which key presses are shortcuts: those that nothing else on the page has a use for.

/** Whether a press is not meant for the control that has the focus, nor for a dialog, nor for the browser. */
export function isShortcut(event: KeyboardEvent): boolean {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) {
    return false;
  }
  return !isTyping(event.target) && document.querySelector("dialog[open]") === null;
}

/** Whether a control takes letters. */
export function isTyping(target: EventTarget | null): boolean {
  if (target instanceof HTMLInputElement) {
    return target.type !== "checkbox";
  }
  return target instanceof HTMLSelectElement || target instanceof HTMLTextAreaElement;
}
