"""Gin for t5x_lite: gin files and command-line overrides in, a configured function out.

The order of things: `parse` reads the files and lays the overrides over them, `configured` binds
the result to the function that a command runs, `operative_config` writes down what that run uses.

The code carries no gin decorators, so a binding acts only through a reference in a gin file, and
what a run uses can be read off before it starts: the main function, whatever its bindings refer
to, and so on. That walk is why a macro left unset, an override that nothing reads and a value of
the wrong type are all found here, in one line, and not after an hour of training.

This module and nothing else imports gin. It uses parts of `gin.config` that are not documented;
setup.cfg holds gin-config to the release they were read in.
"""

import functools
import importlib
import importlib.resources
import inspect
import os
import pathlib
import re
import tokenize
import typing

import gin
from gin import config as gin_config
from gin import config_parser

from t5x_lite import annotations, errors

_OVERRIDE = re.compile(r'(?:\w+/)*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*')
_MACRO = 'gin.macro'
_FILE_FLAGS = {'MODEL': '--gin_file=models/...'}  # Macros that come with a file.
_NOWHERE = config_parser.Location(None, 0, None, '')
_DYNAMIC_REGISTRATION = config_parser.ImportStatement(
  '__gin__.dynamic_registration', True, None, _NOWHERE
)

# Gin's registry is global, and so is what goes with it: the text of each override by its binding,
# and the bindings that the configured function uses.
_override_texts: dict['_Binding', str] = {}
_used: dict[tuple[str, str], dict[str, object]] = {}


class _Binding(typing.NamedTuple):
  """One bound parameter; a macro NAME is parameter 'value' of 'gin.macro' in the scope NAME."""

  scope: str
  selector: str
  parameter: str

  @property
  def flag(self):
    """The name that sets it on the command line: `TRAIN_STEPS` or `optimizers.adamw.b1`."""
    if self.selector == _MACRO:
      return self.scope
    name = f'{_short(self.selector)}.{self.parameter}'
    return f'{self.scope}/{name}' if self.scope else name


def packaged_gin_files() -> list[str]:
  """Returns the names of the installed gin files, as `--gin_file` takes them."""
  folder = _packaged_folder()
  return sorted(path.relative_to(folder).as_posix() for path in folder.glob('*/*.gin'))


def find_gin_file(name, search_paths=()) -> pathlib.Path:
  """Finds a gin file: from the working directory, `search_paths`, then t5x_lite's own.

  Args:
    name: a path, absolute or relative to one of those folders, such as 'runs/pretrain.gin'.
    search_paths: folders, searched in order.

  Raises:
    errors.UserError: there is no such file.
  """
  folders = [pathlib.Path(), *map(pathlib.Path, search_paths), _packaged_folder()]
  for folder in folders:
    path = folder / os.path.expanduser(name)
    if path.is_file():
      return path
  looked_in = ', '.join(str(folder.absolute()) for folder in folders)
  where = '' if os.path.isabs(name) else f' in {looked_in}'
  raise errors.UserError(
    f'no gin file {name}{where}{errors.did_you_mean(name, packaged_gin_files())}'
  )


def parse(gin_files, overrides=(), search_paths=()):
  """Replaces the global gin configuration by that of the files and overrides, later ones winning.

  Args:
    gin_files: names of gin files, see `find_gin_file`.
    overrides: 'NAME=VALUE' each. NAME is a macro, or a parameter as `optimizers.adamw.b1`,
      `adamw.b1` or with its whole path; VALUE is in gin's syntax, or a string without quotes.
    search_paths: folders to search for the files and what they include.

  Raises:
    errors.UserError: a mistake in a file, with its line, or in an override.
  """
  gin.clear_config()
  gin_config._IMPORTS.add(_DYNAMIC_REGISTRATION)
  _override_texts.clear()
  _used.clear()
  for name in gin_files:
    _parse_file(find_gin_file(name, search_paths), search_paths, including=())
  with _Names(gin_config._IMPORTS, import_paths=True):
    for override in overrides:
      _parse_override(override)


def configured(function):
  """Returns `function` with its arguments taken from gin; what the caller gives wins.

  Calling it checks the whole configuration of the function first.

  Raises (when called):
    errors.UserError: a macro or a parameter without a value, an override that nothing uses, a
      value of the wrong type.
  """

  @functools.wraps(function)
  def call(*args, **kwargs):
    if gin_config._inverse_lookup(function) is None:
      gin.external_configurable(function)
    given = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    _check(gin_config._inverse_lookup(function), given)
    try:
      return gin.get_configurable(function)(*args, **kwargs)
    except Exception as error:
      failure = _without_gin_wrapping(error)
    raise failure  # Outside of the handler, so that no proxy of gin's shows up as its context.

  return call


def operative_config() -> str:
  """Returns the configuration of the last function that was configured and called, as gin text.

  It holds all that this function uses and nothing else: macros, bindings and default values. Gin's
  own `operative_config_str` files what a macro refers to under a scope of the macro's name, where
  an override no longer reaches it; here a binding keeps the name under which it was given, so that
  the text can be parsed again and changed.
  """
  return gin_config._config_str(_used, max_line_length=100)


# Reading files and overrides.


def _packaged_folder():
  return pathlib.Path(str(importlib.resources.files('t5x_lite.gin_configs')))


class _Names(gin_config.ParseContext):
  """Finds what a name in a gin file, or in an override, stands for.

  A name is looked up among the imports. Failing that, it may end the path of a function or class
  that some file has named before, as `T5Config` does for `config.T5Config`; of several, that of the
  one for which this configuration sets something.
  """

  def __init__(self, imports=(), *, import_paths=False):
    """Initializes the lookup.

    Args:
      imports: gin's import statements to begin with.
      import_paths: whether a name may be a full path, `optax.lion`, that no file imports.
    """
    super().__init__()
    self._import_paths = import_paths
    self._enable_dynamic_registration()
    for statement in sorted(imports, key=lambda statement: statement.module):
      if statement.module != _DYNAMIC_REGISTRATION.module:
        self.process_import(statement)

  def __enter__(self):
    gin_config._PARSE_CONTEXTS.append(self)
    return self

  def __exit__(self, *_):
    gin_config._PARSE_CONTEXTS.pop()

  def get_configurable(self, selector):
    value, *_ = self._attributes(selector)
    if callable(value):
      return super().get_configurable(selector)
    matches = gin_config._REGISTRY.matching_selectors(selector)
    matches = [match for match in matches if not match.startswith('gin.')]  # gin.constant, ...
    if len(matches) > 1:  # Gin keeps what earlier configurations of this process have named.
      bound = {bound for _, bound in gin_config._CONFIG}
      matches = [match for match in matches if match in bound] or matches
    if len(matches) == 1:
      return gin_config._REGISTRY[matches[0]]
    if matches:
      raise errors.UserError(f'{selector} may be any of {", ".join(sorted(matches))}')
    if self._import_paths and self._import_path(selector):
      return self.get_configurable(selector)
    raise errors.UserError(self._unknown(selector))

  def _attributes(self, selector):
    """Returns the object (or None), its parent and the name at which the lookup ended."""
    name, *names = selector.split('.')
    parent, value = None, self._symbol_table.get(name)
    while names and value is not None:
      name = names.pop(0)
      parent, value = value, getattr(value, name, None)
    return value, parent, name

  def _import_path(self, selector):
    """Imports the module of a full path; returns whether that made the name known."""
    root, *names = selector.split('.')
    if root in self._symbol_table:
      return False
    for end in range(len(names)):  # The longest module path first.
      module = '.'.join([root, *names[: len(names) - 1 - end]])
      try:
        importlib.import_module(module)
      except ModuleNotFoundError:
        continue
      self.process_import(config_parser.ImportStatement(module, False, None, _NOWHERE))
      gin_config._IMPORTS.update(self.imports)
      break
    return callable(self._attributes(selector)[0])

  def _unknown(self, selector):
    value, parent, name = self._attributes(selector)
    if value is not None:
      return f'{selector} is a {type(value).__name__}, not a function or class'
    if parent is not None:
      names = [each for each in dir(parent) if callable(getattr(parent, each, None))]
      return f'{selector}: {parent.__name__} has no {name}{errors.did_you_mean(name, names)}'
    known = {_short(name) for name, _ in gin_config._REGISTRY.items()}
    known |= {name.rpartition('.')[2] for name in known}
    near = errors.did_you_mean(selector, {*known, *self._symbol_table})
    return f'{selector} is neither imported nor named in a gin file{near}'


def _parse_file(path, search_paths, including):
  """Parses one gin file; `including` are the paths of the files that led here."""
  if path in including:
    raise errors.UserError(f'{path} includes itself')
  parser, line = None, None
  try:
    with open(path, encoding='utf-8') as file, _Names() as names:
      parser = config_parser.ConfigParser(file, gin_config.ParserDelegate())
      for statement in parser:
        line = statement.location.line_num
        if isinstance(statement, config_parser.BindingStatement):
          _bind(statement.scope, statement.selector, statement.arg_name, statement.value)
        elif isinstance(statement, config_parser.BlockDeclaration):
          names.get_configurable(statement.selector)
        elif isinstance(statement, config_parser.ImportStatement):
          try:
            names.process_import(statement)
          except (ImportError, SyntaxError) as error:
            raise errors.UserError(f'cannot run `{statement.format()}`: {error}') from error
        else:
          included = find_gin_file(statement.filename, [path.parent, *search_paths])
          _parse_file(included, search_paths, including=(*including, path))
        line = None
      gin_config._IMPORTS.update(names.imports)
  except (SyntaxError, tokenize.TokenError) as error:
    raise errors.UserError(f'{path}:{_syntax_error(error)}') from None
  except errors.UserError as error:
    # A reference is looked up while the statement is being read, before its line is known.
    line = line or parser.current_token.start[0]
    raise errors.UserError(f'{path}:{line}: {_first_line(error)}') from error
  except (OSError, UnicodeDecodeError) as error:
    raise errors.UserError(f'cannot read gin file {path}: {error}') from error


def _syntax_error(error):
  """Words a syntax error as 'LINE: what is wrong'."""
  if isinstance(error, tokenize.TokenError):
    message, (line, _) = error.args
    return f'{line}: {message}; is a bracket or a quote left open?'
  text = (error.text or '').strip()
  return f'{error.lineno}: {_first_line(error.msg)}' + (f' in `{text}`' if text else '')


def _bind(scope, selector, parameter, value):
  """Binds a macro (no parameter) or a parameter of the function or class `selector`."""
  if not parameter:
    scope, selector, parameter = f'{scope}/{selector}' if scope else selector, _MACRO, 'value'
    gin_config._CONFIG.setdefault((scope, selector), {})[parameter] = value
    return _Binding(scope, selector, parameter)
  configurable = gin_config._parse_context().get_configurable(selector)
  signature = _signature(configurable.wrapped)
  takes_any = any(each.kind is each.VAR_KEYWORD for each in signature.values())
  if parameter not in signature and not takes_any:
    near = errors.did_you_mean(parameter, signature) or f'; it has {", ".join(signature)}'
    raise errors.UserError(f'{selector} has no parameter {parameter}{near}')
  gin_config._CONFIG.setdefault((scope, configurable.selector), {})[parameter] = value
  return _Binding(scope, configurable.selector, parameter)


def _parse_override(override):
  """Parses 'NAME=VALUE' from the command line."""
  name, equals, text = override.partition('=')
  if not equals or not _OVERRIDE.fullmatch(name):
    raise errors.UserError(f'--gin.{override}: expected --gin.NAME=VALUE')
  text = text.strip()
  try:
    binding = _bind(*config_parser.parse_binding_key(name), _parse_value(text))
  except (SyntaxError, tokenize.TokenError):
    raise errors.UserError(
      f'--gin.{override}: {text} is not a value in gin; quote a string that begins so, '
      'and quote the whole flag for the shell'
    ) from None
  except errors.UserError as error:
    raise errors.UserError(f'--gin.{name}: {_first_line(error)}') from error
  _override_texts[binding] = text


def _parse_value(text):
  """Parses a gin value; what is none, and does not set out to be one, is a plain string."""
  try:
    parser = config_parser.ConfigParser(f'value = {text}', gin_config.ParserDelegate())
    statement = next(parser)
    if next(parser, None) is None:
      return statement.value
    raise SyntaxError('More than one value.')
  except (SyntaxError, tokenize.TokenError):
    if text.startswith(('{', '[', '(', '@', '%', '"', "'")):
      raise
    return text


# What a run uses.


def _check(main, given):
  """Walks what `main` uses, with the arguments `given` by its caller, and checks all of it."""
  _used.clear()
  unset, types_wanted = _walk(main, given)
  if unset and not any(selector == main.selector for _, selector in gin_config._CONFIG):
    runs = [name for name in packaged_gin_files() if name.startswith('runs/')]
    raise errors.UserError(
      f'no gin file sets anything of {_short(main.selector)}; pass --gin_file=... for one that '
      f'does, such as {", ".join(runs)}'
    )
  # A value of the wrong type can hide what would have used the others, so types come first.
  for binding, annotation in types_wanted.items():
    _check_type(binding, annotation)
  for binding in _override_texts:
    if binding.parameter not in _used.get((binding.scope, binding.selector), {}):
      raise errors.UserError(_no_effect(binding, main))
  if unset:
    flags = ' '.join(_FILE_FLAGS.get(name, f'--gin.{name}=...') for name in unset)
    be = 'is' if len(unset) == 1 else 'are'
    raise errors.UserError(f'{", ".join(unset)} {be} not set; pass {flags}')


def _walk(main, given):
  """Fills `_used` by following every reference from `main`.

  Returns:
    The flags of what has no value, and the annotation of every parameter that gin binds.
  """
  unset, types_wanted, seen = {}, {}, set()

  def visit(configurable, scopes, called, given):
    if (configurable.selector, scopes, called) in seen:
      return
    seen.add((configurable.selector, scopes, called))
    bindings = {}
    for end in range(len(scopes) + 1):  # Inner scopes win.
      scope = '/'.join(scopes[:end])
      for name in gin_config._CONFIG.get((scope, configurable.selector), {}):
        bindings[name] = _Binding(scope, configurable.selector, name)
    signature = _signature(configurable.wrapped)
    for name, parameter in signature.items():
      if name in bindings or name in given:
        continue
      if parameter.default is not parameter.empty:
        _used.setdefault(('', configurable.selector), {})[name] = parameter.default
      elif called and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        scope = '/'.join(scopes) if configurable.selector == _MACRO else ''
        unset[_Binding(scope, configurable.selector, name).flag] = None
    for name, binding in bindings.items():
      if name in given:
        continue
      value = gin_config._CONFIG[binding.scope, binding.selector][name]
      _used.setdefault((binding.scope, binding.selector), {})[name] = value
      if name in signature:
        types_wanted[binding] = signature[name].annotation
      for reference in gin_config.iterate_references([value]):
        if reference.scopes == ['gin.REQUIRED']:
          unset[binding.flag] = None
        else:
          inner = tuple(reference.scopes) or scopes
          visit(reference.configurable, inner, reference.evaluate, ())

  visit(main, (), True, given)
  return unset, types_wanted


def _no_effect(binding, main):
  """Words the error for an override that nothing uses."""
  flags = [_Binding(*key, name).flag for key, names in _used.items() for name in names]
  problem = f'--gin.{binding.flag} has no effect: {_short(main.selector)}, as configured,'
  if binding.selector != _MACRO:
    return (
      f'{problem} does not use {_short(binding.selector)}{errors.did_you_mean(binding.flag, flags)}'
    )
  macros = sorted(flag for flag in flags if '.' not in flag)
  near = errors.did_you_mean(binding.flag, macros) or f'; its macros are {", ".join(macros)}'
  return f'{problem} does not use this macro{near}'


def _check_type(binding, annotation):
  """Checks one bound value, through its macros, against the parameter's annotation."""
  key, value = binding, gin_config._CONFIG[binding.scope, binding.selector][binding.parameter]
  wanted = f'{annotations.name(annotation)} is wanted'
  while isinstance(value, gin_config.ConfigurableReference):
    macro = _Binding('/'.join(value.scopes), _MACRO, 'value')
    if value.configurable.selector != _MACRO:
      if not value.evaluate and not annotations.accept(annotation, value.configurable.wrapped):
        raise errors.UserError(f'{key.flag}={value}: {wanted}, so brackets: {value}()')
      return
    if (macro.scope, _MACRO) not in gin_config._CONFIG:
      return
    if value is gin_config._CONFIG[macro.scope, _MACRO]['value']:
      raise errors.UserError(f'{macro.flag} refers to itself')
    key, value = macro, gin_config._CONFIG[macro.scope, _MACRO]['value']
  if annotations.accept(annotation, value):
    return
  text = _override_texts.get(key)
  if text is not None and isinstance(value, (int, float)) and annotations.accept(annotation, text):
    # --gin.MODEL_DIR=2024 reads as a number where a string is wanted.
    gin_config._CONFIG[key.scope, key.selector][key.parameter] = text
    _used[key.scope, key.selector][key.parameter] = text
    return
  through = '' if key == binding else f' for {binding.flag}'
  raise errors.UserError(f'{key.flag}={value!r}{through}: {wanted}')


# Small matters.


def _signature(function):
  """Returns {name: inspect.Parameter}, with annotations evaluated where they can be.

  One that cannot be, since its names exist for type checkers only, stays a string where it is ours:
  the commands name classes so whose modules take time to import.
  """
  try:
    return dict(inspect.signature(function, eval_str=True).parameters)
  except Exception:
    parameters = inspect.signature(function).parameters
  ours = getattr(function, '__module__', '').startswith('t5x_lite.')
  return {name: _evaluated(parameter, function, ours) for name, parameter in parameters.items()}


def _evaluated(parameter, function, keep):
  if not isinstance(parameter.annotation, str):
    return parameter
  try:
    annotation = eval(parameter.annotation, getattr(function, '__globals__', {}))
  except Exception:
    annotation = parameter.annotation if keep else parameter.empty
  return parameter.replace(annotation=annotation)


def _without_gin_wrapping(error):
  """Returns the exception that was raised, which gin hides in a proxy of the same name."""
  original = error.__context__
  while original is not None and type(error).__bases__ == (type(original),):
    if type(error).__qualname__ != type(original).__qualname__:
      break
    error, original = original, original.__context__
  return error


def _short(selector):
  """Returns the last module and the name: optimizers.adamw."""
  return '.'.join(selector.split('.')[-2:])


def _first_line(message):
  """Gin appends lines about where it was; the mistake itself is the first."""
  return str(message).partition('\n')[0]
